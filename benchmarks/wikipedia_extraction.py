r"""Times stage II on a Wikipedia dump against wikiextractor.

  python benchmarks/wikipedia_extraction.py --dump_file enwiki-….bz2 \
    --peers_python .venv-peers/bin/python

Speed and memory are measured on many copies of the dump's pages, so that the
start-up is negligible. With --metrics (a script that prints quality figures of
a text as JSON) and --reference (the sentences that this script needs), the
benchmark also reports the quality of the extracted text. With --excerpts (dumps
of wikis in several languages), it reports for each dump the amount of text and
the share of lines with faults.
"""

import bz2
import cProfile
import json
from pathlib import Path
import pstats
import re
import subprocess
import sys
import tempfile
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set

from absl import flags

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# pylint: disable=wrong-import-position
from extract_wikipedia_for_bert import dump
from extract_wikipedia_for_bert import prose
from extract_wikipedia_for_bert import templates
from extract_wikipedia_for_bert import wikitext
import measure
from util import command_line
from util import files
from util import workers
from util.command_line import InputError

FLAGS = flags.FLAGS

_SCRIPT = ROOT / "extract_wikipedia_for_bert" / "extract_wikipedia.py"
_MEGABYTE = 1e6
# Markup that no sentence should contain. The extractor need not know all of it.
_MARKUP = re.compile(
    r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|-\{|\}-|\||''|==|\b\d+px\b|</?[a-z]+[^<>]*>"
    r"|&(?:[a-z]{2,8}|#\d+);|__\S+__|\\[a-z]{2,}|formula_\d|https?://|www\.")
_SHORT_WORDS = 4
_PER = 10000


def define_flags() -> None:
  measure.define_flags()
  flags.DEFINE_string("dump_file", None, "A small dump, compressed with bz2.")
  flags.DEFINE_string(
      "metrics", None, "Script that measures the quality of a text.")
  flags.DEFINE_string(
      "reference", None,
      "File of sentences whose recall the quality script measures.")
  flags.DEFINE_string(
      "excerpts", None,
      "Dumps whose extracted text is rated, separated by commas.")
  flags.DEFINE_integer(
      "copies", 4, "Number of copies of the pages.", lower_bound=1)


def repeat_pages(dump_file: str, path: Path, copies: int) -> int:
  """Writes a dump with several copies of another dump's pages.

  Args:
    dump_file: a dump in UTF-8, compressed with bz2.
    path: the dump to write, compressed with bz2 in several streams.
    copies: number of copies of the pages.

  Returns:
    The size of the XML in bytes.
  """
  with bz2.open(dump_file) as file:
    xml = file.read()
  start, end = xml.index(b"<page>"), xml.rindex(b"</mediawiki>")
  pages = xml[start:end]
  packed = bz2.compress(pages)
  with path.open("wb") as file:
    file.write(bz2.compress(xml[:start]))
    for _ in range(copies):
      file.write(packed)
    file.write(bz2.compress(xml[end:]))
  return len(xml) + (copies - 1) * len(pages)


def command(dump_file: Path, written: Path, num_workers: int) -> List[str]:
  """Returns the command of the script, without the interpreter."""
  return [str(_SCRIPT), "--dump_file", str(dump_file), "--output_file",
          str(written), "--overwrite", "--num_workers", str(num_workers)]


def read_pages(dump_file: str) -> float:
  """Returns the seconds in which the reader alone reads the dump."""
  with dump.DumpReader(dump_file) as reader:
    return measure.seconds_of(lambda: sum(len(page.text) for page in reader))


def quality(written: Path, metrics: str, reference: str) -> Dict[str, float]:
  """Returns the quality script's figures of a text, by name."""
  result = subprocess.run(
      [sys.executable, metrics, "--reference", reference, str(written)],
      stdout=subprocess.PIPE, check=True)
  return json.loads(result.stdout)


class Judgement(NamedTuple):
  """The amount and cleanness of the text that an extractor writes.

  Attributes:
    sentences_per_page: lines per article.
    markup: lines with markup, per 10,000 lines.
    holes: lines that lack the words of a template, per 10,000 lines.
    short: lines of fewer than four words, or four characters in scripts without
      spaces, per 10,000 lines.
  """
  sentences_per_page: float
  markup: float
  holes: float
  short: float

  def __str__(self) -> str:
    return ("{:.1f} sentences a page; of 10,000 lines {:.1f} with markup, "
            "{:.1f} with holes, {:.1f} short").format(*self)


class Excerpt:
  """A dump, its number of articles, and its sentences that have holes."""

  def __init__(self, dump_file: str):
    self.num_pages = 0
    self._holes: Set[str] = set()
    with dump.DumpReader(dump_file) as reader:
      wiki = wikitext.Wiki.of(reader.site)
      options = prose.Options(reader.site.language)
      for page in reader:
        if page.namespace or page.is_redirect:
          continue
        self.num_pages += 1
        incomplete: List[str] = []
        prose.lines(
            wikitext.paragraphs(page.text, wiki, templates.Holes()), options,
            incomplete)
        self._holes.update(map(_letters, incomplete))

  def judge(self, lines: Iterable[str]) -> Judgement:
    lines = [line for line in map(str.strip, lines) if line]
    share = _PER / max(1, len(lines))
    return Judgement(
        len(lines) / max(1, self.num_pages),
        share * sum(_MARKUP.search(line) is not None for line in lines),
        share * sum(_letters(line) in self._holes for line in lines),
        share * sum(prose.count_words(line) < _SHORT_WORDS for line in lines))


def _letters(line: str) -> str:
  """Returns the letters of a sentence, without punctuation and holes."""
  return re.sub(r"[\W\ue000-\uf8ff\U000f0000-\U0010ffff]", "", line)


def judge_excerpts(paths: List[str], peers_python: Optional[str],
                   folder: Path) -> List[str]:
  """Returns a line for each excerpt and extractor."""
  lines = []
  for path in paths:
    excerpt = Excerpt(path)
    written = folder / "excerpt.txt"
    subprocess.run([sys.executable, *command(Path(path), written, 1)],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   check=True)
    name = Path(path).name
    lines.append("{}: {}.".format(name, excerpt.judge(
        written.read_text(encoding="utf-8").split("\n"))))
    extracted = folder / ("extracted-" + name)
    peer = measure.Peer(peers_python, "wikiextractor", "wikipedia",
                        "--dump_file", path, "--output_dir", extracted,
                        "--threads", 1)
    try:
      if peer.is_absent:
        continue
      peer.run()
    except (InputError, OSError, RuntimeError) as error:
      lines.append("{}, wikiextractor: does not run ({}).".format(name, error))
      continue
    finally:
      peer.close()
    lines.append("{}, wikiextractor: {}.".format(name, excerpt.judge(
        line for part in sorted(extracted.rglob("wiki_*"))
        for line in part.read_text(encoding="utf-8").split("\n")
        if not line.startswith(("<doc ", "</doc>")))))
  return lines


def run(folder: Path) -> None:
  """Times both extractors with as many processes as cores."""
  small, large = Path(FLAGS.dump_file), folder / "large.xml.bz2"
  written = folder / "wikipedia.txt"
  megabytes = repeat_pages(str(small), large, FLAGS.copies) / _MEGABYTE
  num_workers = workers.available_cores()
  runs: List[measure.Run] = []

  def rate(num_workers: int) -> float:
    runs.append(measure.launch(
        [sys.executable, *command(large, written, num_workers)]))
    return megabytes / runs[-1].wall

  peer = measure.Peer(
      FLAGS.peers_python, "wikiextractor", "wikipedia", "--dump_file", large,
      "--output_dir", folder / "extracted", "--threads", num_workers)
  contenders: Dict[str, Callable[[], float]] = {
      "ours": lambda: rate(num_workers), "one process": lambda: rate(1),
      "reading": lambda: megabytes / read_pages(str(large))}
  if not peer.is_absent:
    contenders["peer"] = lambda: megabytes / peer.run()
  rates = measure.alternate(contenders, FLAGS.turns)
  peer.close()
  limit = ("bytes copied", measure.copy_rate(
      large, measure.COPIED_BYTES) / _MEGABYTE)
  rest = measure.profile_script(*command(small, written, 1))
  with cProfile.Profile() as profile:
    read_pages(str(small))
  rest_of_reading = measure.profile_entries(pstats.Stats(profile))
  settings = [
      "{:.0f} MB of XML, {} copies of the pages, {} processes on {} cores; "
      "peak memory of a process {:.0f} MB. Ours writes sentences, "
      "wikiextractor paragraphs.".format(
          megabytes, FLAGS.copies, num_workers, workers.available_cores(),
          max(run.peak for run in runs) / _MEGABYTE),
      "The limit copies as many bytes as the XML has."]
  if FLAGS.metrics:
    settings += ["{}: {}.".format(*figure) for figure in quality(
        written, FLAGS.metrics, FLAGS.reference).items()]
  if FLAGS.excerpts:
    settings += judge_excerpts(
        files.find_files(FLAGS.excerpts, "excerpts"), FLAGS.peers_python,
        folder)
  measure.finish([
      measure.row("Wikipedia text", "MB/s of XML", rates["ours"],
                  peer.description, rates.get("peer", ()), limit, rest),
      measure.row("Wikipedia text, one process", "MB/s of XML",
                  rates["one process"], limit=limit, rest=rest),
      measure.row("Wikipedia text, only reading the dump", "MB/s of XML",
                  rates["reading"], limit=limit, rest=rest_of_reading)],
                 settings)


def main() -> None:
  if FLAGS.metrics and not FLAGS.reference:
    raise InputError("--reference is missing, which --metrics needs")
  with tempfile.TemporaryDirectory() as folder:
    run(Path(folder))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("dump_file",))
