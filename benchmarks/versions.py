r"""Compares the speed of two versions of stages IV and V.

  git worktree add ../before COMMIT
  python benchmarks/versions.py --other ../before --teacher $TEACHER \
    --input_file masked.tfrecord --max_seq_length 128

Stage IV labels masked records, and stage V trains a student with half the
teacher's layers on the labels. The scripts of this checkout and of the other
checkout run in turn, A B A B. The figures are from the scripts' logs: stage IV
over the whole file, stage V over the last steps. The printed ratio is the
median of this version divided by that of the other version. Training runs
without dropout, so that the losses of both versions can be compared.

On CPUs with bfloat16 arithmetic, --precisions fp32,bf16 also compares bf16.
"""

import os

if __name__ == "__main__":  # TensorFlow reads this variable at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from typing import Callable, List, Mapping

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags

import measure
import modeling
from records import input_pipeline
from util import command_line
from util.command_line import InputError

FLAGS = flags.FLAGS

_LABELLED = re.compile(r"sequences at ([0-9.]+) a second")
_TRAINED = re.compile(
    r"Step \d+ of \d+: loss ([0-9.]+), ([0-9.]+) sequences/s")


def define_flags() -> None:
  measure.define_flags()
  flags.DEFINE_string("other", None, "Folder of the other checkout.")
  flags.DEFINE_string(
      "teacher", None, "Folder with bert_config.json and bert_model.ckpt.")
  flags.DEFINE_string("input_file", None, "Masked records.")
  input_pipeline.define_flags()
  flags.DEFINE_list("precisions", ["fp32"], "Precisions to compare.")
  flags.DEFINE_integer(
      "steps", 140, "Steps per training; the speed is that of the steps after "
      "the last multiple of 100.", lower_bound=101)
  flags.DEFINE_integer("train_batch_size", 8, "Sequences per step.")


def _run(folder: str, script: str, *arguments: str) -> str:
  """Runs a script of a checkout and returns its log.

  Raises:
    InputError: if the script fails.
  """
  done = subprocess.run(
      [sys.executable, os.path.join(folder, script), *arguments],
      stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
  if done.returncode:
    raise InputError("{} of {} failed: {}".format(
        script, folder, done.stderr.strip()[-1000:]))
  return done.stderr


class _Version:
  """The scripts of one checkout, and the losses that they have logged."""

  def __init__(self, folder: str, precision: str):
    self._folder = folder
    self._precision = precision
    self.losses: List[float] = []

  def label(self, output_file: str) -> float:
    """Labels the records from scratch; returns sequences per second."""
    log = self._stage(
        "extract_teacher_labels_truncated.py",
        os.path.join(FLAGS.teacher, "bert_config.json"),
        "--input_file", FLAGS.input_file, "--output_file", output_file,
        "--overwrite", "True")
    found = _LABELLED.search(log)
    assert found, log
    return float(found.group(1))

  def train(self, config: str, labelled: str) -> float:
    """Trains a student; returns sequences per second of the last steps."""
    with tempfile.TemporaryDirectory() as output:
      log = self._stage(
          "network_distillation_single_machine_truncated.py", config,
          "--input_file", labelled, "--output_dir", output,
          "--do_train", "True", "--num_train_steps", str(FLAGS.steps),
          "--num_warmup_steps", "0",
          "--train_batch_size", str(FLAGS.train_batch_size))
    loss, speed = _TRAINED.findall(log)[-1]
    self.losses.append(float(loss))
    return float(speed)

  def _stage(self, script: str, config: str, *arguments: str) -> str:
    return _run(
        self._folder, script, "--bert_config_file", config,
        "--init_checkpoint", os.path.join(FLAGS.teacher, "bert_model.ckpt"),
        "--max_seq_length", str(FLAGS.max_seq_length),
        "--max_predictions_per_seq", str(FLAGS.max_predictions_per_seq),
        "--precision", self._precision, *arguments)


def _compare(what: str,
             contenders: Mapping[str, Callable[[], float]]) -> None:
  """Prints the ratio of two contenders and their figures."""
  figures = measure.alternate(contenders, FLAGS.turns)
  ours, theirs = figures.values()
  sys.stdout.write("{}: {:.3f} times the other version's speed ({} and {})\n"
                   .format(what, statistics.median(ours)
                           / statistics.median(theirs), *figures.values()))


def main() -> None:
  config = modeling.BertConfig.from_json_file(
      os.path.join(FLAGS.teacher, "bert_config.json"))
  with tempfile.TemporaryDirectory() as folder:
    student = os.path.join(folder, "bert_config.json")
    pathlib.Path(student).write_text(dataclasses.replace(
        config, num_hidden_layers=max(1, config.num_hidden_layers // 2),
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).to_json_string())
    labelled = os.path.join(folder, "labelled.tfrecord")
    for precision in FLAGS.precisions:
      versions = [_Version(checkout, precision)
                  for checkout in (str(ROOT), FLAGS.other)]
      # The other version labels last; both versions train on its records.
      _compare("labelling, " + precision, {
          name: lambda version=version: version.label(labelled)
          for name, version in zip(("this", "other"), versions)})
      _compare("training, " + precision, {
          name: lambda version=version: version.train(student, labelled)
          for name, version in zip(("this", "other"), versions)})
      sys.stdout.write("last losses: {} and {}\n".format(
          *(version.losses for version in versions)))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("other", "teacher", "input_file"))
