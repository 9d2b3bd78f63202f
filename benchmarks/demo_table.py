r"""Compares models on held-out records, one row each.

  python benchmarks/demo_table.py --input_file demo/heldout/labelled.tfrecord \
    --models 'teacher=demo/teacher,distilled student=demo/distilled'

A model is a folder with bert_config.json, the checkpoints and eval_results.txt
of a trainer. Accuracy, cross entropy and agreement are those of
eval_results.txt; how many sequences per second a model reads is measured here.
"""

import math
import os
import sys
import time

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
import tensorflow as tf

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))
# pylint: disable=wrong-import-position
import command_line
import extract_teacher_labels_truncated as extraction
import modeling
import records
import training

FLAGS = flags.FLAGS

_NUM_RECORDS = 512
_COLUMNS = ("model", "masked-LM accuracy", "masked-LM cross entropy",
            "agreement with teacher", "parameters", "sequences/s")


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("input_file", None, "Held-out records.")
  flags.DEFINE_string("models", None, "NAME=FOLDER, separated by commas.")
  command_line.define_record_lengths()


def speed(config: modeling.BertConfig, checkpoint: str, path: str,
          shape: records.RecordShape) -> float:
  """Measures how many sequences per second a model reads."""
  _, _, features = next(extraction.windows(
      [path], shape, extraction.Share(0, _NUM_RECORDS), _NUM_RECORDS))
  teacher = extraction.Teacher(
      config, checkpoint, extraction.LabelOptions(truncation_factor=1))
  teacher.label(features, 0)  # Warms up.
  start = time.perf_counter()
  teacher.label(features, 0)
  return len(features[records.INPUT_IDS]) / (time.perf_counter() - start)


def main() -> None:
  shape = records.RecordShape(FLAGS.max_seq_length,
                              FLAGS.max_predictions_per_seq)
  rows = [_COLUMNS]
  for model in FLAGS.models.split(","):
    name, folder = model.split("=")
    config = modeling.BertConfig.from_json_file(
        os.path.join(folder, "bert_config.json"))
    results = training.read_results(
        os.path.join(folder, training.EVALUATION_RESULTS))
    num_parameters = sum(
        math.prod(size) for size in modeling.variable_shapes(config).values())
    rows.append((
        name, "{:.1%}".format(results["masked_lm_accuracy"]),
        "{:.3f}".format(results["masked_lm_cross_entropy"]),
        "{:.1%}".format(results["teacher_top1_agreement"]),
        "{:,}".format(num_parameters),
        "{:.0f}".format(speed(config, tf.train.latest_checkpoint(folder),
                              FLAGS.input_file, shape))))
  widths = [max(map(len, column)) for column in zip(*rows)]
  for row in rows:
    sys.stdout.write("  ".join(
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths))) + "\n")


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file", "models"))
