r"""Times the creation of records beside a straightforward implementation.

  python benchmarks/create_pretraining_data.py \
    --text_file movie_reviews_train.txt --vocab_file vocab.txt

First both make the records of the text in one process, in turns: sequences
per second of processor time and of wall time; both must write the same
records. Then the script runs with one and with two workers on the text split
in two. From each time of the script its start-up is subtracted, which is the
time that it takes for next to no text; a text of less than some MB takes too
little time beside it. Then the peak memory of a worker, for which the text is
repeated.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags

from records import tfrecord
import reference_pretraining_data as reference
from util import command_line

FLAGS = flags.FLAGS

_SEED = 12345  # The script's default.
_LITTLE_TEXT = "a\nb\n\nc\nd\n"
# A process of its own, since a child's peak starts with that of its parent.
_LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime,
      usage.ru_maxrss)
"""


class _Run(NamedTuple):
  """A run of the script.

  Attributes:
    wall: seconds that it took.
    processor: seconds of processor time of all its processes.
    peak: memory of the largest of them, KB.
  """
  wall: float
  processor: float
  peak: float


def define_flags() -> None:
  """Defines the flags of this benchmark."""
  flags.DEFINE_string("text_file", None, "Text, one sentence a line.")
  flags.DEFINE_string("vocab_file", None, "BERT's vocab.txt.")
  flags.DEFINE_integer("dupe_factor", 10, "As for the stage.")
  flags.DEFINE_integer("repetitions", 3, "How often to time each.")
  flags.DEFINE_integer(
      "memory_copies", 10, "Copies of the text in the file that memory is "
      "measured with.")


def compare(folder: pathlib.Path, text_file: str, vocab_file: str,
            dupe_factor: int, repetitions: int) -> None:
  """Times one process each."""
  (folder / "whole").mkdir()
  shutil.copy(text_file, folder / "whole" / "0.txt")
  vocabulary = reference.read_vocabulary(vocab_file)
  little_text = folder / "little.txt"
  little_text.write_text(_LITTLE_TEXT)
  expected = folder / "reference.tfrecord"

  def straightforward(path: str) -> int:
    num_records, _ = reference.write_records(
        path, str(expected), vocabulary,
        reference.Settings(dupe_factor=dupe_factor), _SEED)
    return num_records

  straightforward(str(little_text))  # Imports TensorFlow.
  rates = {"ours": [], "straightforward": []}
  for _ in range(repetitions):
    ours = _time_script(folder, "whole", vocab_file, dupe_factor, 1)
    wall, processor = time.perf_counter(), time.process_time()
    num_sequences = straightforward(text_file)
    theirs = _Run(time.perf_counter() - wall,
                  time.process_time() - processor, 0)
    for name, run in (("ours", ours), ("straightforward", theirs)):
      rates[name].append(
          (num_sequences / run.processor, num_sequences / run.wall))
  _check_equal(folder / "whole.records" / "a_0.tfrecord", expected)
  print("{:,} sequences, records equal".format(num_sequences))
  for i, clock in enumerate(("processor", "wall")):
    mine, theirs = (statistics.median(rate[i] for rate in rates[name])
                    for name in ("ours", "straightforward"))
    print("{:9} time: {:8,.0f} sequences/s, straightforward {:8,.0f}: "
          "{:.1f} times".format(clock, mine, theirs, mine / theirs))


def _check_equal(first: pathlib.Path, second: pathlib.Path) -> None:
  """Compares record files whose Examples may order their features freely."""
  first_records, second_records = (
      tfrecord.read(str(path), "text_file") for path in (first, second))
  for mine in first_records:
    mine, theirs = (tfrecord.decode(record)
                    for record in (mine, next(second_records)))
    assert mine.keys() == theirs.keys()
    assert all((mine[name] == theirs[name]).all() for name in mine)
  assert next(second_records, None) is None


def compare_workers(folder: pathlib.Path, text_file: str, vocab_file: str,
                    dupe_factor: int, repetitions: int) -> None:
  """Times the script with one worker and with two."""
  subprocess.run(
      [sys.executable, str(ROOT / "split_text.py"), "--read_file", text_file,
       "--split_number=2", "--folder", str(folder / "halves"),
       "--name_base=half", "--verbosity=-1"], check=True)
  runs = {1: [], 2: []}
  for _ in range(repetitions):
    for num_workers, times in runs.items():
      times.append(_time_script(
          folder, "halves", vocab_file, dupe_factor, num_workers))
  for num_workers, times in runs.items():
    print("{} workers: {:.2f} s wall ({}), {:.2f} s of processors".format(
        num_workers, statistics.median(run.wall for run in times),
        ", ".join("{:.2f}".format(run.wall) for run in times),
        statistics.median(run.processor for run in times)))
  one, two = (statistics.median(run.wall for run in runs[n]) for n in (1, 2))
  print("two workers: {:.2f} times one".format(one / two))


def _time_script(folder: pathlib.Path, input_dir: str, vocab_file: str,
                 dupe_factor: int, num_workers: int) -> _Run:
  """Runs the script on a folder of texts; its start-up is subtracted."""
  little = folder / (input_dir + ".little")
  little.mkdir(exist_ok=True)
  for name in os.listdir(folder / input_dir):
    (little / name).write_text(_LITTLE_TEXT)
  run, start_up = (
      _run_script(folder, name, vocab_file, dupe_factor, num_workers)
      for name in (input_dir, little.name))
  return _Run(run.wall - start_up.wall, run.processor - start_up.processor,
              run.peak)


def _run_script(folder: pathlib.Path, input_dir: str, vocab_file: str,
                dupe_factor: int, num_workers: int) -> _Run:
  """Runs the script from scratch."""
  output = folder / (input_dir + ".records")
  shutil.rmtree(output, ignore_errors=True)
  launched = subprocess.run(
      [sys.executable, "-c", _LAUNCHER, sys.executable,
       str(ROOT / "multifile_create_pretraining_data.py"),
       "--input_dir", str(folder / input_dir), "--output_dir", str(output),
       "--output_base_name", "a", "--vocab_file", vocab_file, "--dupe_factor",
       str(dupe_factor), "--num_workers", str(num_workers), "--verbosity=-1"],
      check=True, stdout=subprocess.PIPE)
  return _Run(*map(float, launched.stdout.split()))


def measure_memory(folder: pathlib.Path, text_file: str, vocab_file: str,
                   copies: int) -> None:
  """Prints the peak memory of a worker on a large file."""
  text = pathlib.Path(text_file).read_bytes().rstrip() + b"\n\n"
  (folder / "large").mkdir()
  (folder / "large" / "0.txt").write_bytes(text * copies)
  size = len(text) * copies
  for dupe_factor in (1, 4):
    run = _run_script(folder, "large", vocab_file, dupe_factor, 1)
    print("peak memory {:,.0f} MB for a file of {:,} MB at dupe_factor {}"
          .format(run.peak / 1024, size >> 20, dupe_factor))


def main() -> None:
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    compare(folder, FLAGS.text_file, FLAGS.vocab_file, FLAGS.dupe_factor,
            FLAGS.repetitions)
    compare_workers(folder, FLAGS.text_file, FLAGS.vocab_file,
                    FLAGS.dupe_factor, FLAGS.repetitions)
    measure_memory(folder, FLAGS.text_file, FLAGS.vocab_file,
                   FLAGS.memory_copies)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("text_file", "vocab_file"))
