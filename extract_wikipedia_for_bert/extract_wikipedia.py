r"""Extracts plain text from a Wikipedia dump: one sentence per line, a blank
line between articles, articles in the order of the dump.

  python extract_wikipedia_for_bert/extract_wikipedia.py \
    --dump_file enwiki-latest-pages-articles.xml.bz2 \
    --output_file wikipedia.txt

The output depends on the dump and the flags alone, not on --num_workers. It
appears under its name when it is complete.
"""

import dataclasses
import os
import sys
from typing import FrozenSet, Iterator, List, NamedTuple, Sequence, Tuple

from absl import flags
from absl import logging
import tqdm

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# pylint: disable=wrong-import-position
import command_line
from extract_wikipedia_for_bert import dump
from extract_wikipedia_for_bert import ordered_pool
from extract_wikipedia_for_bert import output
from extract_wikipedia_for_bert import prose
from extract_wikipedia_for_bert import wikitext

FLAGS = flags.FLAGS

# Characters of wikitext that a worker gets at a time: enough that handing them
# over costs nothing, few enough that memory stays small.
_BATCH_CHARACTERS = 400000


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which pages are articles.

  Attributes:
    namespaces: numbers of the namespaces that are read.
    keep_disambiguation: whether disambiguation pages are kept.
    max_articles: number of articles after which to stop; 0 for all.
  """
  namespaces: FrozenSet[int] = frozenset([0])
  keep_disambiguation: bool = False
  max_articles: int = 0


class Batch(NamedTuple):
  """Work for one process: titles and wikitexts, and how to clean them."""
  pages: Sequence[Tuple[str, str]]
  wiki: wikitext.Wiki
  keep_disambiguation: bool
  options: prose.Options


def define_flags() -> None:
  """Defines this script's flags."""
  flags.DEFINE_string(
      "dump_file", None,
      "A dump of a wiki with its pages' text: .xml, .xml.bz2 or .xml.gz.")
  flags.DEFINE_string(
      "output_file", None,
      "The text file to write. It must not exist.")
  flags.DEFINE_integer(
      "num_workers", 0,
      "Number of processes that clean text, beside the one that reads; 1 does "
      "all in one process, 0 is as many as there are processors.",
      lower_bound=0)
  flags.DEFINE_list(
      "namespaces", ["0"],
      "Numbers of the namespaces to read, separated by commas. 0 holds the "
      "articles.")
  flags.DEFINE_boolean(
      "keep_disambiguation", False,
      "Whether to keep disambiguation pages.")
  prose.define_flags()
  flags.DEFINE_integer(
      "max_articles", 0, "Stop after this many articles; 0 is all of them.",
      lower_bound=0)
  flags.DEFINE_boolean(
      "overwrite", False, "Whether to replace an output file that exists.")


def extract(dump_file: str, writer: output.ArticleWriter, selection: Selection,
            options: prose.Options, num_workers: int) -> dump.DumpReader:
  """Writes the articles of a dump.

  Args:
    dump_file: the dump.
    writer: where the articles go.
    selection: which pages are articles.
    options: which sentences are kept; the dump names its own language.
    num_workers: number of processes.

  Returns:
    The reader, at the end of the dump.

  Raises:
    ValueError: the dump is damaged, is none or has no article.
  """
  with dump.DumpReader(dump_file) as reader:
    with ordered_pool.OrderedPool(clean, num_workers) as pool, tqdm.tqdm(
        total=reader.size, unit="B", unit_scale=True,
        disable=None) as progress:
      for articles in pool.map(_batches(reader, selection, options)):
        for lines in articles:
          writer.write(lines)
          if writer.articles == selection.max_articles:
            return reader
        progress.update(reader.position() - progress.n)
    if not writer.articles:
      raise reader.error(
          "no article with {} sentences among its {} pages".format(
              options.min_sentences, reader.pages_read),
          "give a pages-articles dump, or see --namespaces and "
          "--min_sentences")
    return reader


def _batches(reader: dump.DumpReader, selection: Selection,
             options: prose.Options) -> Iterator[Batch]:
  """Yields the pages that may be articles, some at a time."""
  pages: List[Tuple[str, str]] = []
  size = 0

  def batch() -> Batch:
    return Batch(tuple(pages), wikitext.Wiki.of(reader.site),
                 selection.keep_disambiguation,
                 dataclasses.replace(options, language=reader.site.language))

  for page in reader:
    if page.namespace not in selection.namespaces or page.is_redirect:
      continue
    pages.append((page.title, page.text))
    size += len(page.text)
    if size >= _BATCH_CHARACTERS:
      yield batch()
      pages.clear()
      size = 0
  if pages:
    yield batch()


def clean(batch: Batch) -> List[List[str]]:
  """Returns the sentences of each article of a batch.

  Args:
    batch: pages as wikitext.
  """
  articles = []
  for title, text in batch.pages:
    if not batch.keep_disambiguation and wikitext.is_disambiguation(
        title, text):
      continue
    try:
      lines = prose.lines(
          wikitext.paragraphs(text, batch.wiki), batch.options)
    except MemoryError:
      raise
    except Exception as error:  # pylint: disable=broad-except
      # A bug, but no reason to lose the work of a day.
      logging.error("skipped the page %r, which failed: %r", title, error,
                    exc_info=logging.level_debug())
      continue
    if lines:
      articles.append(lines)
  return articles


def _namespace_numbers(words: Sequence[str]) -> FrozenSet[int]:
  try:
    numbers = frozenset(int(word) for word in words)
  except ValueError:
    numbers = frozenset()
  if not numbers:
    raise ValueError("--namespaces {}: expected numbers separated by commas, "
                     "such as 0 or 0,100".format(",".join(words)))
  return numbers


def main() -> None:
  """Checks the flags and runs the extraction."""
  selection = Selection(_namespace_numbers(FLAGS.namespaces),
                        FLAGS.keep_disambiguation, FLAGS.max_articles)
  options = prose.Options(min_words=FLAGS.min_words,
                          min_sentences=FLAGS.min_sentences)
  with output.ArticleWriter(FLAGS.output_file, "output_file",
                            FLAGS.overwrite) as writer:
    reader = extract(FLAGS.dump_file, writer, selection, options,
                     FLAGS.num_workers or _processors())
    writer.finish()
  print("{} from {:,} pages".format(writer.summary(), reader.pages_read))


def _processors() -> int:
  """Returns how many processors this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("dump_file", "output_file"))
