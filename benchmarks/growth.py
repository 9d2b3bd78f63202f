r"""Measures stages III and IV and the reader on inputs of 1x, 4x and 16x.

  python benchmarks/growth.py --text_file text.txt --vocab_file vocab.txt \
    --bert_config_file teacher/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --masked_file masked.tfrecord --labelled_file labelled.tfrecord

The larger inputs repeat the smallest one. The benchmark measures whole
commands: seconds, peak memory of the largest process, and bytes written (for
the reader, bytes read). Differences between sizes exclude the start-up.
"""

import os
import pathlib
import shutil
import statistics
import sys
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

if __name__ == "__main__":  # TensorFlow reads this variable at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags

import measure
from records import block_index
from records import order
import some_records
from util import command_line
from util import workers

FLAGS = flags.FLAGS

_TIMES = (1, 4, 16)
_BATCH_SIZE = 32
_TOP_K = 10


class Measured(NamedTuple):
  """Time, memory and disk use of a run.

  Attributes:
    seconds: wall time.
    peak_bytes: peak memory of the largest process.
    disk_bytes: bytes written, or for the reader, bytes read.
  """
  seconds: float
  peak_bytes: int
  disk_bytes: int


def define_flags() -> None:
  measure.define_flags()
  flags.DEFINE_string("text_file", None, "Text with one sentence per line.")
  flags.DEFINE_string("vocab_file", None, "BERT's vocab.txt.")
  flags.DEFINE_string("bert_config_file", None, "Config of the teacher.")
  flags.DEFINE_string("init_checkpoint", None, "Checkpoint of the teacher.")
  flags.DEFINE_string("masked_file", None, "Records of stage III.")
  flags.DEFINE_string("labelled_file", None, "Records of stage IV.")
  flags.DEFINE_integer(
      "num_records", 100, "Records that stage IV labels at 1x.", lower_bound=1)
  flags.DEFINE_integer(
      "dupe_factor", 5, "--dupe_factor of stage III.", lower_bound=1)


def folder_bytes(folder: pathlib.Path) -> int:
  """Returns the total size of a folder's files in bytes."""
  return sum(path.stat().st_size for path in folder.rglob("*")
             if path.is_file())


def run_stage(folder: pathlib.Path, script: str, *arguments: str) -> Measured:
  """Empties a folder, then runs a stage that writes into it."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  run = measure.launch([sys.executable, ROOT / script, *arguments,
                        "--verbosity=-1"])
  return Measured(run.wall, run.peak, folder_bytes(folder))


def create_records(folder: pathlib.Path, times: int) -> Callable[[], Measured]:
  """Splits the text by core, and returns a function that runs stage III."""
  texts = folder / "texts_{}".format(times)
  texts.mkdir()
  text = pathlib.Path(FLAGS.text_file).read_bytes().rstrip() + b"\n\n"
  repeated = folder / "text_{}.txt".format(times)
  repeated.write_bytes(text * times)
  measure.launch([
      sys.executable, ROOT / "split_text.py", "--read_file", repeated,
      "--split_number", max(2, workers.available_cores()), "--folder", texts,
      "--name_base", "text", "--verbosity=-1"])
  return lambda: run_stage(
      folder / "masked", "multifile_create_pretraining_data.py", "--input_dir",
      texts, "--output_dir", folder / "masked", "--output_base_name", "a",
      "--vocab_file", FLAGS.vocab_file, "--dupe_factor", FLAGS.dupe_factor)


def label_records(folder: pathlib.Path, times: int) -> Callable[[], Measured]:
  """Prepares stage IV, and returns a function that runs it."""
  masked = folder / "masked_{}.tfrecord".format(times)
  some_records.take(FLAGS.masked_file, str(masked), FLAGS.num_records * times)
  return lambda: run_stage(
      folder / "labelled", "extract_teacher_labels_truncated.py",
      "--bert_config_file", FLAGS.bert_config_file, "--init_checkpoint",
      FLAGS.init_checkpoint, "--input_file", masked, "--output_file",
      folder / "labelled" / "labelled.tfrecord")


def read_epoch(paths: Sequence[str]) -> Measured:
  """Reads records once, in the order of training."""
  # Imported here, so that only the measured process loads TensorFlow.
  import reading
  from records import input_pipeline
  shape = input_pipeline.stored_lengths(paths[0], "labelled_file")._replace(
      truncation_factor=_TOP_K)
  corpus = order.read_corpus(paths, "labelled_file")
  dataset = input_pipeline.training_input_fn(
      corpus, shape, "labelled_file", 0)({"batch_size": _BATCH_SIZE})
  seconds = measure.seconds_of(lambda: reading.speed(
      dataset, corpus.size // _BATCH_SIZE - 1, _BATCH_SIZE))
  return Measured(seconds, measure.peak_bytes(),
                  sum(map(os.path.getsize, paths)))


def read_records(folder: pathlib.Path, times: int) -> Callable[[], Measured]:
  """Links the record files, and returns a function that reads them."""
  paths = []
  for i in range(times):
    paths.append(str(folder / "labelled_{}_{}.tfrecord".format(times, i)))
    for ending in ("", ".json"):
      os.link(FLAGS.labelled_file + ending, paths[-1] + ending)

  def run() -> Measured:
    with measure.new_processes() as call:
      return call(read_epoch, paths)

  return run


def measure_growth(what: str, unit: str, size: float, memory: str,
                   prepare: Callable[[pathlib.Path, int],
                                     Callable[[], Measured]],
                   turns: int, time: str = "") -> Dict[str, Any]:
  """Measures one stage at all sizes, in turn.

  Args:
    what: name of the stage.
    unit: unit of the input's size.
    size: size of the input at 1x.
    memory: explanation of the memory.
    prepare: takes a folder and the number of repetitions; returns a function
      that runs the stage.
    turns: number of runs of each size.
    time: explanation of a time that is not linear.
  """
  # Hard links need the file system of the records.
  with tempfile.TemporaryDirectory(dir=pathlib.Path(
      FLAGS.labelled_file).parent) as name:
    runs = measure.alternate({
        times: prepare(pathlib.Path(name), times) for times in _TIMES}, turns)
  points: List[Dict[str, Any]] = []
  for times, measured in runs.items():
    seconds, peaks, disk = zip(*measured)
    points.append({
        "times": times, "size": size * times,
        "seconds": statistics.median(seconds), "turns": seconds,
        "peak_bytes": statistics.median(peaks),
        "disk_bytes": statistics.median(disk)})
  return {"what": what, "unit": unit, "memory": memory, "time": time,
          "points": points}


def main() -> None:
  num_records = block_index.count_records(FLAGS.labelled_file, "labelled_file")
  text_bytes = os.path.getsize(FLAGS.text_file)
  growth = [
      measure_growth(
          "stage III", "kB of text", text_bytes / 1e3,
          "a worker holds the token ids of its file, and there are as many "
          "files at every size", create_records, FLAGS.turns),
      measure_growth(
          "stage IV", "sequences", FLAGS.num_records,
          "it holds the weights and two windows of records", label_records,
          FLAGS.turns),
      measure_growth(
          "reader", "sequences", num_records,
          "it holds some windows of {:,} records, of which 1x has less than "
          "one".format(order.WINDOW_RECORDS), read_records, FLAGS.turns,
          "while the first window is read, nothing is decoded, and 4x has "
          "little more than two of them")]
  measure.finish([], [
      "Whole commands with their default settings; stage III at dupe_factor {}."
      .format(FLAGS.dupe_factor)], growth=growth)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "text_file", "vocab_file", "bert_config_file", "init_checkpoint",
      "masked_file", "labelled_file"))
