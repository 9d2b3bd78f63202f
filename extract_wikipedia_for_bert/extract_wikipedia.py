r"""Extracts sentences from a Wikipedia dump.

  python extract_wikipedia_for_bert/extract_wikipedia.py \
    --dump_file enwiki-latest-pages-articles.xml.bz2 \
    --output_file wikipedia.txt

The output has one sentence per line and an empty line between articles, in the
order of the dump. The output depends on the dump and the flags alone, not on
--num_workers. The file gets its name when it is complete.
"""

import contextlib
import dataclasses
import os
import sys
import traceback
from typing import FrozenSet, Iterator, List, NamedTuple, Sequence, Tuple

from absl import flags
from absl import logging
import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# pylint: disable=wrong-import-position
from extract_wikipedia_for_bert import dump
from extract_wikipedia_for_bert import output
from extract_wikipedia_for_bert import prose
from extract_wikipedia_for_bert import wikitext
from util import command_line
from util import workers
from util.command_line import InputError

FLAGS = flags.FLAGS

# Characters of wikitext in a batch: enough to make the cost of sending it to a
# worker negligible, few enough to keep memory small.
_BATCH_CHARACTERS = 400000


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which pages are articles.

  Attributes:
    namespaces: numbers of the namespaces to read.
    keep_disambiguation: whether to keep disambiguation pages.
    max_articles: number of articles after which to stop; 0 for no limit.
  """
  namespaces: FrozenSet[int] = frozenset([0])
  keep_disambiguation: bool = False
  max_articles: int = 0


class Batch(NamedTuple):
  """A task for a worker: titles and wikitexts, and how to clean them."""
  pages: Sequence[Tuple[str, str]]
  wiki: wikitext.Wiki
  keep_disambiguation: bool
  options: prose.Options


class SkippedPage(NamedTuple):
  """A worker's report of a page that it failed to clean."""
  title: str
  error: str
  traceback: str


def define_flags() -> None:
  """Defines this script's flags."""
  flags.DEFINE_string(
      "dump_file", None,
      "A dump of a wiki, with the text of its pages: .xml, .xml.bz2 or "
      ".xml.gz.")
  flags.DEFINE_string(
      "output_file", None,
      "The text file to write. It must not exist.")
  flags.DEFINE_integer(
      "num_workers", 0,
      "Number of processes that clean text, in addition to the one that reads "
      "the dump. 1 does everything in one process; 0 is the number of "
      "available cores.", lower_bound=0)
  flags.DEFINE_list(
      "namespaces", ["0"],
      "Numbers of the namespaces to read, separated by commas. Articles are in "
      "0.")
  flags.DEFINE_boolean(
      "keep_disambiguation", False,
      "Whether to keep disambiguation pages.")
  prose.define_flags()
  flags.DEFINE_integer(
      "max_articles", 0, "Stop after this many articles; 0 is no limit.",
      lower_bound=0)
  flags.DEFINE_boolean(
      "overwrite", False, "Whether to replace an existing output file.")


def extract(dump_file: str, writer: output.ArticleWriter, selection: Selection,
            options: prose.Options, num_workers: int) -> dump.DumpReader:
  """Writes the articles of a dump.

  Args:
    dump_file: the dump.
    writer: what the articles are written to.
    selection: which pages are articles.
    options: which sentences are kept; the language is that of the dump.
    num_workers: number of processes that clean text; 1 does everything in this
      process.

  Returns:
    The reader, at the end of the dump.

  Raises:
    InputError: the dump is damaged, is not a dump or has no article; or a
      worker died.
  """
  with dump.DumpReader(dump_file) as reader:
    batches = _batches(reader, selection, options)
    cleaned = workers.run(
        clean, batches, num_workers if num_workers > 1 else 0,
        on_report=_log_skipped_page, in_order=True,
        remedy="free some memory, or lower --num_workers (now {})".format(
            num_workers))
    with contextlib.closing(cleaned), tqdm.tqdm(
        total=reader.size, unit="B", unit_scale=True,
        disable=None) as progress:
      for _, articles in cleaned:
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
  """Yields batches of the pages that may be articles."""
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


def clean(batch: Batch, report: workers.Report) -> List[List[str]]:
  """Returns the sentences of each article of a batch.

  Args:
    batch: pages as wikitext.
    report: called with a SkippedPage for each page that fails.
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
      report(SkippedPage(title, repr(error), traceback.format_exc()))
      continue
    if lines:
      articles.append(lines)
  return articles


def _log_skipped_page(page: SkippedPage) -> None:
  logging.error("skipped the page %r, which failed: %s", page.title, page.error)
  logging.debug("%s", page.traceback)


def _namespace_numbers(values: Sequence[str]) -> FrozenSet[int]:
  """Parses --namespaces."""
  try:
    numbers = frozenset(map(int, values))
  except ValueError:
    numbers = frozenset()
  if not numbers:
    raise InputError("--namespaces {}: expected numbers separated by commas, "
                     "such as 0 or 0,100".format(",".join(values)))
  return numbers


def main() -> None:
  selection = Selection(_namespace_numbers(FLAGS.namespaces),
                        FLAGS.keep_disambiguation, FLAGS.max_articles)
  options = prose.Options(min_words=FLAGS.min_words,
                          min_sentences=FLAGS.min_sentences)
  with output.ArticleWriter(FLAGS.output_file, "output_file",
                            FLAGS.overwrite) as writer:
    reader = extract(FLAGS.dump_file, writer, selection, options,
                     FLAGS.num_workers or workers.available_cores())
    writer.finish()
  print("{} from {:,} pages".format(writer.summary(), reader.pages_read))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("dump_file", "output_file"))
