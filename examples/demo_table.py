r"""Compares models on held-out records, one row each.

  python examples/demo_table.py \
    --input_file demo/800_steps/heldout/labelled.tfrecord \
    --models 'teacher=demo/800_steps/teacher,student=demo/800_steps/distilled' \
    --max_seq_length 64 --max_predictions_per_seq 10

A model is a folder with bert_config.json, the checkpoints and eval_results.txt
of a trainer. Accuracy, cross entropy and agreement are those of
eval_results.txt; how many sequences per second a model reads is measured here.
"""

import math
import os
import pathlib
import sys
import time
from typing import Mapping, Tuple

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import checkpoints
from distillation import evaluation
from distillation import teacher
import modeling
from records import input_pipeline
from records import order
from records import schema
from util import command_line
from util import files
from util.command_line import InputError

_NUM_RECORDS = 512
_COLUMNS = ("model", "masked-LM accuracy", "masked-LM cross entropy",
            "agreement with teacher", "parameters", "sequences/s")


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("input_file", None, "Held-out records.")
  flags.DEFINE_string("models", None, "NAME=FOLDER, separated by commas.")
  input_pipeline.define_flags()


def speed(config: modeling.BertConfig, checkpoint: str,
          features: Mapping[str, np.ndarray]) -> float:
  """Measures how many sequences per second a model reads."""
  model = teacher.Teacher(
      config, checkpoint, teacher.LabelOptions(truncation_factor=1))
  model.label(features, 0)  # Warms up.
  start = time.perf_counter()
  model.label(features, 0)
  return len(features[schema.INPUT_IDS]) / (time.perf_counter() - start)


def row(model: str, features: Mapping[str, np.ndarray]) -> Tuple[str, ...]:
  """Returns a model's cells, one for each column.

  Args:
    model: NAME=FOLDER.
    features: held-out records, arrays by feature name.

  Raises:
    InputError: the folder holds no model that a trainer has evaluated.
  """
  name, _, folder = model.partition("=")
  config = checkpoints.load_config(
      os.path.join(folder, checkpoints.CONFIG_FILE))
  results = evaluation.read_results(
      os.path.join(folder, evaluation.RESULTS_FILE))
  checkpoint = tf.train.latest_checkpoint(folder)
  if not (results and checkpoint):
    raise InputError("--models: {} lacks a checkpoint or {}; run a trainer "
                     "there with --do_eval first".format(
                         folder or model, evaluation.RESULTS_FILE))
  num_parameters = sum(
      math.prod(size) for size in modeling.variable_shapes(config).values())
  return (name, "{:.1%}".format(results["masked_lm_accuracy"]),
          "{:.3f}".format(results["masked_lm_cross_entropy"]),
          "{:.1%}".format(results["teacher_top1_agreement"]),
          "{:,}".format(num_parameters),
          "{:.0f}".format(speed(config, checkpoint, features)))


def main() -> None:
  shape = schema.RecordShape(flags.FLAGS.max_seq_length,
                             flags.FLAGS.max_predictions_per_seq)
  window = next(input_pipeline.read_windows(
      order.read_corpus(
          files.find_files(flags.FLAGS.input_file, "input_file"),
          "input_file"), "input_file", shape, 0, _NUM_RECORDS, _NUM_RECORDS))
  rows = [_COLUMNS, *(row(model, window.features)
                      for model in flags.FLAGS.models.split(","))]
  widths = [max(map(len, column)) for column in zip(*rows)]
  for name, *cells in rows:
    sys.stdout.write("  ".join(
        [name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) + "\n")


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file", "models"))
