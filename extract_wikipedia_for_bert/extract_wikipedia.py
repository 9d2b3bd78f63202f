r"""Extracts sentences from a Wikipedia dump.

  python extract_wikipedia_for_bert/extract_wikipedia.py \
    --dump_file enwiki-latest-pages-articles.xml.bz2 \
    --output_file wikipedia.txt

The output has one sentence per line and a blank line between articles, in the
order of the dump, for any value of --num_workers. The file gets its final name
when it is complete. After an interruption, run the same command to resume.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import os
from pathlib import Path
import sys
import time
import traceback
from typing import (Any, Counter, Dict, FrozenSet, Iterable, Iterator, List,
                    Mapping, NamedTuple, Optional, Sequence)

from absl import flags
from absl import logging
import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# pylint: disable=wrong-import-position
from extract_wikipedia_for_bert import dump
from extract_wikipedia_for_bert import output
from extract_wikipedia_for_bert import prose
from extract_wikipedia_for_bert import templates
from extract_wikipedia_for_bert import wikitext
from util import command_line
from util import workers
from util.command_line import InputError

FLAGS = flags.FLAGS

# Bytes of the dump in a task. The upper bound limits memory and balances the
# workers. The lower bound limits overhead: adjacent tasks read a block twice.
_MIN_SLICE_BYTES = 1 << 18
_MAX_SLICE_BYTES = 1 << 21
_SLICES_PER_WORKER = 8
# Ratio of the bytes of XML to the bytes that bzip2 compresses them to.
_XML_FACTOR = 4
# Seconds between writes of the progress file. An interruption loses the work
# since the last write.
_NOTE_SECONDS = 5
_LOG_SECONDS = 60
_MOST_FREQUENT = 10


@dataclasses.dataclass(frozen=True)
class Selection:
  """The selection of the articles among the pages.

  Attributes:
    namespaces: numbers of the namespaces to read.
    keep_disambiguation: whether to keep disambiguation pages.
    max_articles: number of articles after which to stop; 0 is no limit.
  """
  namespaces: FrozenSet[int] = frozenset([0])
  keep_disambiguation: bool = False
  max_articles: int = 0


class Task(NamedTuple):
  """A slice of a dump for a worker to clean.

  Attributes:
    source: the dump.
    part: the slice.
    num_done: number of pages at the start of the slice that an earlier run
      cleaned.
    site: the wiki.
    selection: selection of the pages.
    options: selection of the sentences.
  """
  source: dump.Source
  part: dump.Slice
  num_done: int
  site: dump.Site
  selection: Selection
  options: prose.Options


class Cleaned(NamedTuple):
  """The articles of a slice.

  Attributes:
    part: the slice.
    articles: the articles in order.
    num_pages: number of complete pages in the slice.
    last_title: title of the last complete page, or None.
    lost: number of sentences dropped because a template stands for words, by
      the template's name.
    damage: damage that ends the dump early, or None.
  """
  part: dump.Slice
  articles: List[output.Article]
  num_pages: int
  last_title: Optional[str]
  lost: Mapping[str, int]
  damage: Optional[dump.DamagedError]


class SkippedPage(NamedTuple):
  """A worker's report of a page that could not be cleaned."""
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
      "The text file to write. It must not exist. The text of an interrupted "
      "run is continued.")
  flags.DEFINE_integer(
      "num_workers", 0,
      "Number of processes that read and clean the dump. 1 starts no further "
      "process; 0 is the number of available cores.", lower_bound=0)
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


def made_by(dump_file: str, selection: Selection,
            options: prose.Options) -> Dict[str, Any]:
  """Returns the settings and the code on which the text depends.

  Args:
    dump_file: the dump.
    selection: selection of the pages. `max_articles` is left out, so that a run
      can resume with another value.
    options: selection of the sentences.
  """
  digest = hashlib.sha256()
  for path in sorted(Path(__file__).resolve().parent.glob("*.[pt][yx]*")):
    digest.update(path.read_bytes())
  return {
      "--dump_file": os.path.basename(dump_file),
      "--namespaces": sorted(selection.namespaces),
      "--keep_disambiguation": selection.keep_disambiguation,
      "--min_words": options.min_words,
      "--min_sentences": options.min_sentences,
      "the extractor": digest.hexdigest()[:12],
  }


def extract(dump_file: str, writer: output.ArticleWriter, selection: Selection,
            options: prose.Options, num_workers: int) -> dump.DumpReader:
  """Writes the articles of a dump, after those of an earlier run.

  Args:
    dump_file: the dump.
    writer: writer of the output.
    selection: selection of the pages.
    options: selection of the sentences; the header of the dump overrides the
      language.
    num_workers: number of processes that read and clean; 1 starts no further
      process.

  Returns:
    The reader, at the end of the dump.

  Raises:
    InputError: if the file is not a dump, is damaged or has no article, or if a
      worker died.
  """
  with dump.DumpReader(dump_file) as reader:
    run = _Run(reader, writer, selection)
    if selection.max_articles and writer.articles == selection.max_articles:
      return reader
    cleaned = workers.run(
        clean, run.tasks(dataclasses.replace(
            options, language=reader.site.language), num_workers),
        num_workers if num_workers > 1 else 0,
        on_report=_log_skipped_page, in_order=True,
        remedy="free some memory, or lower --num_workers (now {})".format(
            num_workers))
    with contextlib.closing(cleaned):
      run.write(result for _, result in cleaned)
    run.log_lost()
    if not writer.articles:
      raise reader.error(
          "no article with {} sentences among its {} pages".format(
              options.min_sentences, reader.pages_read),
          "give a pages-articles dump, or check --namespaces and "
          "--min_sentences")
    return reader


class _Run:
  """A run's position in the dump, and its counts of dropped sentences."""

  def __init__(self, reader: dump.DumpReader, writer: output.ArticleWriter,
               selection: Selection):
    """Resumes the earlier run of the writer, if there is one.

    Raises:
      InputError: if the earlier run read another dump or wrote more than
        `max_articles` articles.
    """
    self._reader = reader
    self._writer = writer
    self._selection = selection
    # Bounds of the next slice, and the number of its pages that are done.
    self._start = self._end = self._num_done = 0
    self._lost: Counter[str] = collections.Counter()
    state = writer.state
    if state is None:
      return
    most = selection.max_articles
    if most and writer.articles > most:
      writer.refuse("it has {:,} articles already, more than --max_articles {}"
                    .format(writer.articles, most))
    elif reader.source.fingerprint(state["position"]) != state["fingerprint"]:
      writer.refuse("--dump_file {} was another dump".format(
          reader.source.path))
    else:
      self._start, self._end = state["start"], state["end"]
      self._num_done = state["num_done"]
      self._lost.update(state["lost"])
      reader.pages_read = state["num_pages"]
      reader.last_title = state["last_title"]
      logging.info("resuming after %s articles, at byte %s of %s",
                   "{:,}".format(writer.articles), state["position"],
                   reader.size)

  def tasks(self, options: prose.Options, num_workers: int) -> Iterator[Task]:
    """Yields the remaining tasks."""
    source = self._reader.source
    num_bytes = max(_MIN_SLICE_BYTES, min(
        _MAX_SLICE_BYTES, source.size // (num_workers * _SLICES_PER_WORKER)))
    if source.compression is dump.Compression.NONE:
      num_bytes *= _XML_FACTOR
    num_done = self._num_done
    for part in self._reader.slices(self._start, num_bytes, self._end):
      yield Task(source, part, num_done, self._reader.site, self._selection,
                 options)
      num_done = 0

  def write(self, results: Iterable[Cleaned]) -> None:
    """Writes the results in order, and the progress file every few seconds."""
    reader, writer = self._reader, self._writer
    noted = logged = time.monotonic()
    with tqdm.tqdm(total=reader.size, initial=self._position_of_start(),
                   unit="B", unit_scale=True, disable=None) as progress:
      for result in results:
        for article in result.articles:
          writer.write_article(article)
          if writer.articles == self._selection.max_articles:
            return
        self._lost.update(result.lost)
        reader.pages_read += result.num_pages
        reader.last_title = result.last_title or reader.last_title
        if result.damage is not None:
          self._start, self._end = result.part.start, result.part.end
          self._num_done += result.num_pages
          raise self._damage(result.damage)
        self._start, self._end = result.part.end, 0
        self._num_done = 0
        progress.update(result.part.position - progress.n)
        now = time.monotonic()
        if now - noted >= _NOTE_SECONDS and writer.articles:
          self._note(result.part.position)
          noted = now
        if progress.disable and now - logged >= _LOG_SECONDS:
          logging.info(
              "%.1f%% of the dump, %s articles",
              100 * result.part.position / reader.size,
              "{:,}".format(writer.articles))
          logged = now

  def _position_of_start(self) -> int:
    return self._writer.state["position"] if self._writer.state else 0

  def _note(self, position: int) -> bool:
    """Writes the progress file; returns whether the text is kept."""
    reader = self._reader
    return self._writer.note({
        "start": self._start, "end": self._end, "num_done": self._num_done,
        "position": position,
        "fingerprint": reader.source.fingerprint(position),
        "num_pages": reader.pages_read, "last_title": reader.last_title,
        "lost": self._lost})

  def _damage(self, damage: dump.DamagedError) -> InputError:
    """Keeps the articles before the damage, and returns the error."""
    remedy = damage.remedy
    num_articles = self._writer.articles
    if num_articles and self._note(min(self._start, damage.position)):
      remedy += (" and run the same command again: {:,} articles are kept and "
                 "the command resumes after them; --max_articles {} finishes "
                 "the file with them").format(num_articles, num_articles)
    return self._reader.error(damage.problem, remedy, damage.position)

  def log_lost(self) -> None:
    """Logs the templates for which the most sentences were dropped."""
    if self._lost:
      logging.info(
          "sentences dropped because a template stands for some words: %s",
          ", ".join("{{{{{}}}}} {:,}".format(*item)
                    for item in self._lost.most_common(_MOST_FREQUENT)))


def clean(task: Task, report: workers.Report) -> Cleaned:
  """Reads and cleans a slice.

  Args:
    task: the slice.
    report: called with a SkippedPage for each page that cannot be cleaned.
  """
  articles: List[output.Article] = []
  lost: Counter[str] = collections.Counter()
  wiki = wikitext.Wiki.of(task.site)
  num_pages, last_title, damage = 0, None, None
  try:
    for page in itertools.islice(
        task.source.pages(task.part, task.site), task.num_done, None):
      num_pages += 1
      last_title = page.title
      if page.namespace in task.selection.namespaces and not page.is_redirect:
        lines = _clean_page(page, wiki, task, lost, report)
        if lines:
          articles.append(output.Article.of(lines))
  except dump.DamagedError as error:
    damage = error
  return Cleaned(task.part._replace(text=b"", damage=None), articles, num_pages,
                 last_title, lost, damage)


def _clean_page(page: dump.Page, wiki: wikitext.Wiki, task: Task,
                lost: Counter[str], report: workers.Report) -> List[str]:
  """Returns the sentences of a page; [] if the page is not an article."""
  if not task.selection.keep_disambiguation and wikitext.is_disambiguation(
      page.title, page.text):
    return []
  holes = templates.Holes()
  incomplete: List[str] = []
  try:
    lines = prose.lines(wikitext.paragraphs(page.text, wiki, holes),
                        task.options, incomplete)
  except MemoryError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    # A bug in the cleaning of one page must not end a run of hours.
    report(SkippedPage(page.title, repr(error), traceback.format_exc()))
    return []
  for sentence in incomplete:
    lost.update(holes.names(sentence))
  return lines


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
  with output.ArticleWriter(
      FLAGS.output_file, "output_file", FLAGS.overwrite,
      made_by(FLAGS.dump_file, selection, options)) as writer:
    reader = extract(FLAGS.dump_file, writer, selection, options,
                     FLAGS.num_workers or workers.available_cores())
    writer.finish()
  print("{} from {:,} pages".format(writer.summary(), reader.pages_read))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("dump_file", "output_file"))
