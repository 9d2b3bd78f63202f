"""Compares models on held-out records, one row each.

  python benchmarks/demo_table.py --input_file demo/heldout/labelled.tfrecord \
    --models 'teacher=demo/teacher,distilled student=demo/distilled'

A model is a folder with bert_config.json, the checkpoints and eval_results.txt
of a trainer. The first one is the teacher. Accuracy and cross entropy are those
of eval_results.txt; the other columns are measured here: how often the most
probable word is the teacher's, the number of parameters, and how many
sequences per second the model labels.
"""

import math
import os
import sys
import time

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
import numpy as np
import tensorflow as tf

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))
# pylint: disable=wrong-import-position
import command_line
import extract_teacher_labels_truncated as extraction
import modeling
import records
import training

FLAGS = flags.FLAGS

_BATCH_SIZE = 32
_COLUMNS = ("model", "masked-LM accuracy", "masked-LM cross entropy",
            "agreement with teacher", "parameters", "sequences/s")


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("input_file", None, "Held-out records.")
  flags.DEFINE_string(
      "models", None, "NAME=FOLDER, separated by commas; the teacher first.")
  flags.DEFINE_integer("max_seq_length", 128, "As in the records.")
  flags.DEFINE_integer("max_predictions_per_seq", 20, "As in the records.")


def best_words(config: modeling.BertConfig, checkpoint: str, path: str,
               shape: records.RecordShape):
  """Runs a model over records.

  Returns:
    Its most probable word for each slot, int32 [records, P], and how many
    sequences per second it read once it was warm.
  """
  words, times = [], []
  for _, _, indices in extraction.label(config, checkpoint, [path], shape, 1,
                                        _BATCH_SIZE):
    times.append(time.perf_counter())
    words.append(indices[:, 0])
  first = min(_BATCH_SIZE, len(times) // 2)
  speed = (len(times) - first) / (times[-1] - times[first - 1])
  return np.stack(words), speed


def main() -> None:
  shape = records.RecordShape(FLAGS.max_seq_length,
                              FLAGS.max_predictions_per_seq)
  weights = np.concatenate([
      records.decode(tf.constant([serialized]), shape)[
          records.MASKED_LM_WEIGHTS].numpy()
      for serialized in records.read_records(FLAGS.input_file, "input_file")])
  rows, teacher_words = [_COLUMNS], None
  for model in FLAGS.models.split(","):
    name, folder = model.split("=")
    config = modeling.BertConfig.from_json_file(
        os.path.join(folder, "bert_config.json"))
    words, speed = best_words(
        config, tf.train.latest_checkpoint(folder), FLAGS.input_file, shape)
    teacher_words = words if teacher_words is None else teacher_words
    results = training.read_results(
        os.path.join(folder, training.EVALUATION_RESULTS))
    num_parameters = sum(
        math.prod(size) for size in modeling.variable_shapes(config).values())
    rows.append((
        name, "{:.1%}".format(results["masked_lm_accuracy"]),
        "{:.3f}".format(results["masked_lm_cross_entropy"]),
        "{:.1%}".format((words == teacher_words)[weights > 0].mean()),
        "{:,}".format(num_parameters), "{:.0f}".format(speed)))
  widths = [max(map(len, column)) for column in zip(*rows)]
  for row in rows:
    sys.stdout.write("  ".join(
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths))) + "\n")


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file", "models"))
