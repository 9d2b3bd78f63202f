r"""Measures the extraction from a Wikipedia dump: quality, speed and memory.

  python benchmarks/wikipedia_extraction.py \
    --dump_file ../shared/data/wikipedia/enwiki-….bz2 \
    --metrics ../shared/wiki_metrics.py \
    --reference ../shared/golden/wikipedia/prose_reference.txt.gz

Quality is that of the dump's text. Speed and memory are measured on a dump of
many copies of its pages, so that the start-up does not count. Runs with one
worker and with two alternate, since the load on the machine may vary. Needs
Linux (/proc).
"""

import bz2
import hashlib
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, NamedTuple

from absl import flags
from absl import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# pylint: disable=wrong-import-position
from util import command_line
from util.command_line import InputError

FLAGS = flags.FLAGS

_SCRIPT = ROOT / "extract_wikipedia_for_bert" / "extract_wikipedia.py"
_MEGABYTE = 1e6
_POLL_SECONDS = .02


class Run(NamedTuple):
  """What one run of the script took and wrote.

  `other_cores` is the number of cores that other processes used meanwhile: if
  it is above 0.1, the times say little about the script.
  """
  wall_seconds: float
  cpu_seconds: float
  other_cores: float
  parent_megabytes: float
  worker_megabytes: float
  fingerprint: str


def define_flags() -> None:
  """Defines this script's flags."""
  flags.DEFINE_string("dump_file", None, "A small dump, compressed with bz2.")
  flags.DEFINE_string(
      "metrics", None, "The script that measures the quality of a text.")
  flags.DEFINE_string(
      "reference", None,
      "The sentences whose recall the quality script measures.")
  flags.DEFINE_integer(
      "copies", 10, "How often to repeat the pages.", lower_bound=1)
  flags.DEFINE_integer(
      "repetitions", 3, "Runs with one worker, and as many with two.",
      lower_bound=1)


def repeat_pages(dump_file: str, path: Path, copies: int) -> int:
  """Writes a dump in which the pages of another one are repeated.

  Args:
    dump_file: a dump in UTF-8, compressed with bz2.
    path: the dump to write, compressed with bz2 in several streams.
    copies: how often to repeat the pages.

  Returns:
    The number of bytes of the XML.
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


def peak_megabytes(pid: int) -> float:
  """Returns the peak memory of a process, 0 when it has ended."""
  try:
    status = Path("/proc/{}/status".format(pid)).read_text()
  except OSError:
    return 0.
  for line in status.splitlines():
    if line.startswith("VmHWM:"):
      return int(line.split()[1]) * 1024 / _MEGABYTE
  return 0.


def busy_seconds() -> float:
  """Returns the time that the cores have been busy, added up."""
  with open("/proc/stat", encoding="ascii") as file:
    user, nice, system, _, _, interrupt, soft_interrupt = map(
        int, file.readline().split()[1:8])
  return (user + nice + system + interrupt + soft_interrupt) / os.sysconf(
      "SC_CLK_TCK")


def workers(pid: int) -> List[int]:
  """Returns the worker processes of a process."""
  found = []
  try:
    text = Path("/proc/{0}/task/{0}/children".format(pid)).read_text()
    for child in map(int, text.split()):
      # Not the tracker of multiprocessing, nor a copy of the parent that is
      # about to become a worker.
      if b"spawn_main" in Path("/proc/{}/cmdline".format(child)).read_bytes():
        found.append(child)
  except OSError:  # One of them has just ended.
    pass
  return found


def extract(dump_file: str, written: Path, num_workers: int) -> Run:
  """Runs the script once and measures it.

  Args:
    dump_file: the dump.
    written: the output file.
    num_workers: number of worker processes.

  Raises:
    InputError: the script failed.
  """
  start, busy = time.monotonic(), busy_seconds()
  process = subprocess.Popen(
      [sys.executable, str(_SCRIPT), "--dump_file", dump_file, "--output_file",
       str(written), "--overwrite", "--num_workers", str(num_workers)],
      stdout=subprocess.DEVNULL)
  parent = worker = 0.
  while True:
    parent = max(parent, peak_megabytes(process.pid))
    worker = max([worker, *map(peak_megabytes, workers(process.pid))])
    # The usage includes that of the workers, since their parent waits for them.
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if pid:
      break
    time.sleep(_POLL_SECONDS)
  wall = time.monotonic() - start
  cpu = usage.ru_utime + usage.ru_stime
  other_cores = max(0., busy_seconds() - busy - cpu) / wall
  if status:
    raise InputError("the script failed on --dump_file {}".format(dump_file))
  return Run(wall, cpu, other_cores, parent, worker,
             hashlib.sha256(written.read_bytes()).hexdigest())


def quality(written: Path, metrics: str, reference: str) -> Dict[str, float]:
  """Returns the figures of the quality script for a text."""
  result = subprocess.run(
      [sys.executable, metrics, "--reference", reference, str(written)],
      stdout=subprocess.PIPE, check=True)
  return json.loads(result.stdout)


def measure(dump_file: str, metrics: str, reference: str, copies: int,
            repetitions: int, folder: Path) -> Dict[str, object]:
  """Returns the figures by name.

  Args:
    dump_file: a small dump, compressed with bz2.
    metrics: the quality script.
    reference: its reference sentences.
    copies: how often to repeat the pages for speed and memory.
    repetitions: runs with one worker, and as many with two.
    folder: for temporary files.
  """
  written = folder / "wikipedia.txt"
  small = extract(dump_file, written, 1)
  figures = dict(quality(written, metrics, reference))
  large_dump = folder / "large.xml.bz2"
  megabytes = repeat_pages(dump_file, large_dump, copies) / _MEGABYTE
  runs: Dict[int, List[Run]] = {1: [], 2: [], 4: []}
  for repetition in range(repetitions):
    for num_workers in (1, 2):
      logging.info("run %d with %d workers", repetition + 1, num_workers)
      runs[num_workers].append(extract(str(large_dump), written, num_workers))
  logging.info("run with 4 workers")
  runs[4].append(extract(str(large_dump), written, 4))

  def median(num_workers: int, attribute: str) -> float:
    return statistics.median(
        getattr(run, attribute) for run in runs[num_workers])

  every = [run for some in runs.values() for run in some]
  figures.update(
      xml_megabytes=round(megabytes, 1),
      wall_seconds={n: [round(run.wall_seconds, 2) for run in runs[n]]
                    for n in runs},
      cpu_seconds={n: [round(run.cpu_seconds, 2) for run in runs[n]]
                   for n in runs},
      other_cores={n: [round(run.other_cores, 2) for run in runs[n]]
                   for n in runs},
      megabytes_per_core_second={
          n: round(megabytes / median(n, "cpu_seconds"), 2) for n in runs},
      two_workers_times_one=round(
          median(1, "wall_seconds") / median(2, "wall_seconds"), 2),
      parent_megabytes_small_dump=round(small.parent_megabytes, 1),
      parent_megabytes={
          n: round(max(run.parent_megabytes for run in runs[n]), 1)
          for n in runs},
      worker_megabytes={
          n: round(max(run.worker_megabytes for run in runs[n]), 1)
          for n in runs},
      identical_output=len({run.fingerprint for run in every}) == 1)
  return figures


def main() -> None:
  """Measures, and prints one figure per line."""
  with tempfile.TemporaryDirectory() as folder:
    figures = measure(FLAGS.dump_file, FLAGS.metrics, FLAGS.reference,
                      FLAGS.copies, FLAGS.repetitions, Path(folder))
  for name, figure in figures.items():
    print("{}: {}".format(name, figure))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("dump_file", "metrics", "reference"))
