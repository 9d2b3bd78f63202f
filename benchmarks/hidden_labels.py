r"""Measures the trainer on records with the teacher's hidden states.

  python benchmarks/hidden_labels.py --folder hidden_labels

The records have the format of `--label_format hidden` with BERT-Base and random
values: 31 kB each, 2.1 GB for 65,536 records. A student of 2 layers, 128 wide,
trains on them for one step and for many. The benchmark prints the seconds and
the peak memory of each run, then the seconds until a run reports a damaged
record.
"""

import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np

import measure
import teacher_memory
from distillation import teacher_decoder
from records import compact
from records import manifest
from records import record_writer
from records import order
from records import schema
from records import tfrecord
from util import command_line

FLAGS = flags.FLAGS

_HIDDEN_SIZE = 768  # BERT-Base's.
_NUM_DIFFERENT = 64
_SEED = 12345  # The trainers' default.
_TRAINER = ROOT / "network_distillation_single_machine_truncated.py"
_CONFIG = teacher_memory.CONFIGS["tiny"]


def define_flags() -> None:
  flags.DEFINE_string(
      "folder", None, "Folder for the records, which are kept.")
  flags.DEFINE_integer("num_records", 1 << 16, "Records to write.")
  flags.DEFINE_integer("num_steps", 200, "Steps to train.")


def write_records(folder: pathlib.Path, num_records: int) -> pathlib.Path:
  """Writes the student's config, the records and the teacher's decoder."""
  folder.mkdir(exist_ok=True)
  (folder / "bert_config.json").write_text(
      _CONFIG.to_json_string(), encoding="utf-8")
  generator = np.random.default_rng(0)
  path = folder / "hidden.tfrecord"
  teacher_decoder.store(teacher_decoder.Decoder(
      generator.normal(size=[_CONFIG.vocab_size, _HIDDEN_SIZE]).astype(
          np.float32),
      np.zeros(_CONFIG.vocab_size, np.float32)), str(path))
  features = teacher_memory.random_features(_NUM_DIFFERENT)
  slots = features[schema.MASKED_LM_POSITIONS].shape
  features[schema.TEACHER_HIDDEN_STATES] = generator.normal(
      size=[*slots, _HIDDEN_SIZE]).astype(np.float16)
  serialized = tfrecord.encode(compact.pack(features, None))
  with record_writer.RecordWriter(str(path)) as writer:
    for number in range(num_records):
      writer.write(serialized[number % _NUM_DIFFERENT])
    writer.commit(manifest.Manifest(
        _TRAINER.name, {}, {}, {}, _CONFIG.vocab_size))
  return path


def command(folder: pathlib.Path, num_steps: int) -> "list[str]":
  """Returns the trainer's command, with a new output folder."""
  return [
      sys.executable, str(_TRAINER), "--do_train",
      "--bert_config_file", str(folder / "bert_config.json"),
      "--input_file", str(folder / "hidden.tfrecord"),
      "--output_dir", str(folder / "run_{}".format(time.time_ns())),
      "--num_train_steps", str(num_steps), "--num_warmup_steps", "0",
      "--train_batch_size", "32"]


def first_record_read(path: pathlib.Path) -> int:
  """Returns the offset of a record of the first window."""
  corpus = order.read_corpus([str(path)], "input_file")
  piece = next(order.windows(corpus, _SEED)).pieces[-1]
  return int(corpus.offsets[piece.block])


def flip(path: pathlib.Path, offset: int) -> None:
  """Flips a bit of a file; a second call restores the file."""
  with open(path, "r+b") as file:
    file.seek(offset)
    byte = file.read(1)[0]
    file.seek(offset)
    file.write(bytes([byte ^ 1]))


def main() -> None:
  folder = pathlib.Path(FLAGS.folder)
  path = write_records(folder, FLAGS.num_records)
  for num_steps in (1, FLAGS.num_steps):
    run = measure.launch(command(folder, num_steps))
    sys.stdout.write("{} steps: {:.1f} s, peak {:.2f} GB\n".format(
        num_steps, run.wall, run.peak / 1e9))
    sys.stdout.flush()
  offset = first_record_read(path) + _HIDDEN_SIZE
  flip(path, offset)
  begin = time.perf_counter()
  try:
    errors = subprocess.run(
        command(folder, FLAGS.num_steps), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, check=False).stderr
  finally:
    flip(path, offset)
  sys.stdout.write("damaged record, reported after {:.1f} s: {}\n".format(
      time.perf_counter() - begin, errors.splitlines()[-1]))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=["folder"])
