r"""Times stage III against a straightforward implementation.

  python benchmarks/create_pretraining_data.py \
    --text_file movie_reviews_train.txt --vocab_file vocab.txt

BERT's create_pretraining_data.py is not a package. The straightforward
implementation is that of the tests, which follows BERT's procedure draw by
draw; the benchmark checks that both write the same records. Then the stage runs
with one and with two workers on two halves of the text. The start-up time,
measured on a text of four short lines, is subtracted from each time of the
stage. Use a text of several MB, which takes much longer than the start-up.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import List

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags

import measure
from records import tfrecord
import reference_pretraining_data as reference
from util import command_line

FLAGS = flags.FLAGS

_SEED = 12345  # The script's default.
_LITTLE_TEXT = "a\nb\n\nc\nd\n"
# Runs the script's work in the profiled process instead of workers.
_IN_ONE_PROCESS = """
import sys
sys.path.insert(0, {!r})
import multifile_create_pretraining_data as script
from util import command_line
script.workers_that_fit = lambda *unused_arguments: 0
script.define_flags()
command_line.run(script.main)
"""


def define_flags() -> None:
  measure.define_flags()
  flags.DEFINE_string("text_file", None, "Text with one sentence per line.")
  flags.DEFINE_string("vocab_file", None, "BERT's vocab.txt.")
  flags.DEFINE_integer("dupe_factor", 10, "As for the stage.")


class Script:
  """Stage III, run on folders of texts in a temporary folder."""

  def __init__(self, folder: pathlib.Path, vocab_file: str, dupe_factor: int):
    self._folder = folder
    self._vocab_file = vocab_file
    self._dupe_factor = dupe_factor

  def seconds(self, input_dir: str, num_workers: int) -> float:
    """Returns the seconds of a run without its start-up."""
    little = self._folder / (input_dir + ".little")
    little.mkdir(exist_ok=True)
    for name in os.listdir(self._folder / input_dir):
      if not name.startswith("."):  # Not the manifest of split_text.py.
        (little / name).write_text(_LITTLE_TEXT)
    run, start_up = (
        measure.launch([sys.executable, str(
            ROOT / "multifile_create_pretraining_data.py"),
                        *self.arguments(name), "--num_workers", num_workers])
        for name in (input_dir, little.name))
    return run.wall - start_up.wall

  def arguments(self, input_dir: str) -> List[str]:
    """Removes earlier records of a folder of texts; returns the flags."""
    output = self._folder / (input_dir + ".records")
    shutil.rmtree(output, ignore_errors=True)
    return ["--input_dir", str(self._folder / input_dir), "--output_dir",
            str(output), "--output_base_name", "a", "--vocab_file",
            self._vocab_file, "--dupe_factor", str(self._dupe_factor),
            "--verbosity=-1"]


def create_plainly(text_file: str, output: str, vocab_file: str,
                   dupe_factor: int) -> float:
  """Returns the seconds of the straightforward implementation."""
  vocabulary = reference.read_vocabulary(vocab_file)
  settings = reference.Settings(dupe_factor=dupe_factor)
  little = output + ".little"
  pathlib.Path(little).write_text(_LITTLE_TEXT)
  reference.write_records(  # Imports TensorFlow.
      little, output, vocabulary, settings, _SEED)
  return measure.seconds_of(lambda: reference.write_records(
      text_file, output, vocabulary, settings, _SEED))


def check_equal(first: pathlib.Path, second: pathlib.Path) -> int:
  """Asserts that two record files are equal, whatever the order of features.

  Returns:
    The number of records in each file.
  """
  num_records = 0
  second_records = tfrecord.read(str(second), "text_file")
  for mine in tfrecord.read(str(first), "text_file"):
    mine, theirs = (tfrecord.decode(record)
                    for record in (mine, next(second_records)))
    assert mine.keys() == theirs.keys()
    assert all((mine[name] == theirs[name]).all() for name in mine)
    num_records += 1
  assert next(second_records, None) is None
  return num_records


def run(folder: pathlib.Path, text_file: str, vocab_file: str,
        dupe_factor: int, turns: int) -> None:
  """Times all contenders and reports their rates."""
  for name in ("whole", "halves"):
    (folder / name).mkdir()
  shutil.copy(text_file, folder / "whole" / "0.txt")
  subprocess.run(
      [sys.executable, str(ROOT / "split_text.py"), "--read_file", text_file,
       "--split_number=2", "--folder", str(folder / "halves"),
       "--name_base=half", "--verbosity=-1"], check=True)
  script = Script(folder, vocab_file, dupe_factor)
  expected = folder / "reference.tfrecord"
  with measure.new_processes() as call:
    seconds = measure.alternate({
        "one process": lambda: script.seconds("whole", 1),
        "straightforward": lambda: call(
            create_plainly, text_file, str(expected), vocab_file, dupe_factor),
        "one worker": lambda: script.seconds("halves", 1),
        "two workers": lambda: script.seconds("halves", 2)}, turns)
  records = folder / "whole.records" / "a_0.tfrecord"
  num_records = check_equal(records, expected)
  rates = {name: [num_records / spent for spent in values]
           for name, values in seconds.items()}
  limit = measure.copy_rate(records) * num_records / records.stat().st_size
  rest = measure.profile_script("-c", _IN_ONE_PROCESS.format(str(ROOT)),
                                *script.arguments("whole"))
  measure.finish([
      measure.row(
          "stage III", "sequences/s", rates["one process"],
          {"name": "straightforward implementation",
           "settings": "BERT's procedure in plain Python, one process, "
           "TensorFlow's record writer; equal records"},
          rates["straightforward"], ("bytes copied", limit), rest),
      measure.row(
          "stage III, two workers", "sequences/s", rates["two workers"],
          {"name": "one worker", "settings": "the same two files"},
          rates["one worker"], ("bytes copied", limit), rest)], [
              "{:.1f} MB of text, {:,} sequences of {:.0f} bytes at "
              "dupe_factor {}; start-up subtracted.".format(
                  os.path.getsize(text_file) / 1e6, num_records,
                  records.stat().st_size / num_records, dupe_factor)],
                 bytes_per_sequence=records.stat().st_size / num_records)


def main() -> None:
  with tempfile.TemporaryDirectory() as name:
    run(pathlib.Path(name), FLAGS.text_file, FLAGS.vocab_file,
        FLAGS.dupe_factor, FLAGS.turns)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("text_file", "vocab_file"))
