"""Times the creation of records beside a straightforward implementation.

  python benchmarks/create_pretraining_data.py \
    --text_file movie_reviews_train.txt --vocab_file vocab.txt

First one process each, on the whole text, in turns: sequences per second of
processor time and of wall time, start-up not counted; both must write the
same records. Then the script itself with one and with two workers on the text
split in two, less the time that it takes for next to no text. Then the peak
memory of a worker, for which the text is repeated.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags

import command_line
import multifile_create_pretraining_data as stage
import records
import records
import reference_pretraining_data as reference
import split_text

FLAGS = flags.FLAGS

_SEED = 12345
# A process of its own, since a child's peak starts with that of its parent.
_LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
print(time.perf_counter() - start,
      resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


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
  settings = reference.Settings(dupe_factor=dupe_factor)
  vocabulary = reference.read_vocabulary(vocab_file)
  manifest = records.Manifest("benchmark", {}, {}, {}, len(vocabulary))
  source = stage.check_file(text_file, lambda progress: None)
  task = stage.Task(source, str(folder / "ours.tfrecord"), vocab_file, _SEED,
                    stage.Settings(**settings._asdict()), manifest)

  def ours():
    stage._tokenizer.cache_clear()
    return stage.create_file(task, lambda progress: None).sequences

  def straightforward():
    return reference.write_records(
        text_file, str(folder / "reference.tfrecord"), vocabulary, settings,
        _SEED)[0]

  rates = {ours: [], straightforward: []}
  for _ in range(repetitions):
    for contender in rates:
      wall, processor = time.perf_counter(), time.process_time()
      num_sequences = contender()
      rates[contender].append((
          num_sequences / (time.process_time() - processor),
          num_sequences / (time.perf_counter() - wall)))
  _check_equal(folder / "ours.tfrecord", folder / "reference.tfrecord")
  print("{:,} sequences, records equal".format(num_sequences))
  for i, clock in enumerate(("processor", "wall")):
    mine, theirs = (statistics.median(rate[i] for rate in rates[contender])
                    for contender in (ours, straightforward))
    print("{:9} time: {:8,.0f} sequences/s, straightforward {:8,.0f}: "
          "{:.1f} times".format(clock, mine, theirs, mine / theirs))


def _check_equal(first: pathlib.Path, second: pathlib.Path) -> None:
  """Compares record files whose Examples may order their features freely."""
  pairs = zip(*(records.read_records(str(path), "text_file")
                for path in (first, second)))
  for mine, theirs in pairs:
    assert records.encode({}, mine) == records.encode({}, theirs)


def compare_workers(folder: pathlib.Path, text_file: str, vocab_file: str,
                    dupe_factor: int, repetitions: int) -> None:
  """Times the script with one worker and with two."""
  split_text.split(text_file, 2, str(folder / "halves"), "half")
  for i in range(2):
    (folder / "little").mkdir(exist_ok=True)
    (folder / "little" / "{}.txt".format(i)).write_text("a\nb\n\nc\nd\n")
  seconds = {1: [], 2: []}
  for _ in range(repetitions):
    for num_workers in seconds:
      whole, little = (
          _run_script(folder, name, vocab_file, dupe_factor, num_workers)[0]
          for name in ("halves", "little"))
      seconds[num_workers].append(whole - little)
  one, two = (statistics.median(seconds[n]) for n in (1, 2))
  print("one worker {:.2f} s ({}), two workers {:.2f} s ({}): {:.2f} times"
        .format(one, _listed(seconds[1]), two, _listed(seconds[2]), one / two))


def _listed(values) -> str:
  return ", ".join("{:.2f}".format(value) for value in values)


def _run_script(folder: pathlib.Path, input_dir: str, vocab_file: str,
                dupe_factor: int, num_workers: int) -> Tuple[float, int]:
  """Runs the script from scratch; returns its seconds and peak memory in KB.

  The peak is that of the largest of its processes.
  """
  output = folder / "records"
  shutil.rmtree(output, ignore_errors=True)
  launched = subprocess.run(
      [sys.executable, "-c", _LAUNCHER, sys.executable, stage.__file__,
       "--input_dir", str(folder / input_dir), "--output_dir", str(output),
       "--output_base_name", "a", "--vocab_file", vocab_file, "--dupe_factor",
       str(dupe_factor), "--num_workers", str(num_workers), "--verbosity=-1"],
      check=True, stdout=subprocess.PIPE)
  elapsed, peak = launched.stdout.split()
  return float(elapsed), int(peak)


def measure_memory(folder: pathlib.Path, text_file: str, vocab_file: str,
                   copies: int) -> None:
  """Prints the peak memory of a worker on a large file."""
  text = pathlib.Path(text_file).read_bytes().rstrip() + b"\n\n"
  (folder / "large").mkdir()
  (folder / "large" / "0.txt").write_bytes(text * copies)
  size = len(text) * copies
  for dupe_factor in (1, 4):
    _, peak = _run_script(folder, "large", vocab_file, dupe_factor, 1)
    print("peak memory {:,} MB for a file of {:,} MB at dupe_factor {}".format(
        peak >> 10, size >> 20, dupe_factor))


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
