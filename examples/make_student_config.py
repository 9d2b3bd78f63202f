r"""Writes the config of a student, and says what it saves.

  python examples/make_student_config.py \
    --bert_config_file teacher/bert_config.json --layers 6 \
    --output_file student/bert_config.json

What is not given is as in the teacher's config. A student of the teacher's
hidden size can start from its layers; one of another, --hidden_size, starts
from scratch, with heads of the teacher's size and layers of its proportions.
"""

import dataclasses
import math
import os
import pathlib
import sys
from typing import List, Tuple

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
from absl import logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import checkpoints
import modeling
from records import input_pipeline
from util import command_line
from util import files
from util.command_line import InputError

# Variables are float32.
_BYTES_PER_PARAMETER = 4


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("bert_config_file", None, "Config of the teacher.")
  flags.DEFINE_integer("layers", None, "Layers of the student.", lower_bound=1)
  flags.DEFINE_integer(
      "hidden_size", None, "The student's hidden size; default: the teacher's.",
      lower_bound=1)
  flags.DEFINE_string("output_file", None, "Config to write.")
  flags.DEFINE_bool(
      "overwrite", False, "Whether to replace another config of that name.")
  input_pipeline.define_flags()


def student_config(teacher: modeling.BertConfig, num_layers: int,
                   hidden_size: int) -> modeling.BertConfig:
  """Returns the config of a student.

  Args:
    teacher: the teacher's config.
    num_layers: layers of the student.
    hidden_size: its hidden size; a multiple of the size of a head.

  Raises:
    InputError: the hidden size is no such multiple.
  """
  head_size = teacher.hidden_size // teacher.num_attention_heads
  if hidden_size % head_size:
    raise InputError(
        "--hidden_size={} must be a multiple of {}, the size of the teacher's "
        "attention heads: give {}".format(
            hidden_size, head_size,
            max(1, round(hidden_size / head_size)) * head_size))
  return dataclasses.replace(
      teacher, num_hidden_layers=num_layers, hidden_size=hidden_size,
      num_attention_heads=hidden_size // head_size,
      intermediate_size=round(
          hidden_size * teacher.intermediate_size / teacher.hidden_size))


def num_parameters(config: modeling.BertConfig) -> int:
  """Counts the parameters of a model with both heads."""
  return sum(map(math.prod, modeling.variable_shapes(config).values()))


def num_operations(config: modeling.BertConfig, max_seq_length: int,
                   max_predictions_per_seq: int) -> int:
  """Counts the multiplications and additions that a sequence takes.

  Those of the matrix products, forward; training takes three times as many.

  Args:
    config: of the model.
    max_seq_length: S.
    max_predictions_per_seq: P.
  """
  size, length = config.hidden_size, max_seq_length
  # Queries, keys, values and output; then the two layers of the feed-forward.
  of_layer = length * (4 * size ** 2 + 2 * size * config.intermediate_size)
  of_attention = 2 * length ** 2 * size  # Scores, and weighted values.
  of_head = max_predictions_per_seq * (size ** 2 + size * config.vocab_size)
  return 2 * (config.num_hidden_layers * (of_layer + of_attention) + size ** 2
              + of_head)


def comparison(teacher: modeling.BertConfig, student: modeling.BertConfig,
               max_seq_length: int, max_predictions_per_seq: int) -> str:
  """Returns a table of what the student takes, beside the teacher."""
  rows: List[Tuple[str, ...]] = [("", "teacher", "student", "ratio")]
  for name, pattern, scale, count in (
      ("parameters", "{:.1f} million", 1e-6, num_parameters),
      ("size on disk", "{:.0f} MB", 1e-6 * _BYTES_PER_PARAMETER,
       num_parameters),
      ("arithmetic per sequence", "{:.2f} GFLOP", 1e-9,
       lambda config: num_operations(
           config, max_seq_length, max_predictions_per_seq))):
    counts = count(teacher), count(student)
    rows.append((name, *(pattern.format(number * scale) for number in counts),
                 "{:.2f}".format(counts[1] / counts[0])))
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "".join("  ".join(
      [name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) + "\n"
                 for name, *cells in rows)


def _warn_of_size(teacher: modeling.BertConfig,
                  student: modeling.BertConfig) -> None:
  """Warns of a student that is larger in every way."""
  if (student.num_hidden_layers > teacher.num_hidden_layers
      and student.hidden_size >= teacher.hidden_size):
    logging.warning(
        "The student is larger than the teacher: give fewer --layers, of which "
        "the teacher has %d, or a smaller --hidden_size than its %d.",
        teacher.num_hidden_layers, teacher.hidden_size)


def main() -> None:
  output_file, hidden_size = flags.FLAGS.output_file, flags.FLAGS.hidden_size
  max_seq_length = flags.FLAGS.max_seq_length
  teacher = checkpoints.load_config(
      flags.FLAGS.bert_config_file, max_seq_length)
  student = student_config(
      teacher, flags.FLAGS.layers, hidden_size or teacher.hidden_size)
  _warn_of_size(teacher, student)
  text = student.to_json_string()
  if (files.exists(output_file) and not flags.FLAGS.overwrite
      and files.read_text(output_file) != text):
    raise InputError(
        "--output_file={} holds another config already: choose another name, "
        "or set --overwrite=True".format(output_file))
  files.make_output_folder(os.path.dirname(output_file), "output_file")
  files.write_atomically(output_file, text)
  sys.stdout.write(comparison(
      teacher, student, max_seq_length, flags.FLAGS.max_predictions_per_seq))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("bert_config_file", "layers", "output_file"))
