r"""Writes the config of a student, and says what it saves.

  python examples/make_student_config.py \
    --bert_config_file teacher/bert_config.json --layers 6 \
    --output_file student/bert_config.json

What is not given is as in the teacher's config. A student of the teacher's
hidden size can start from its layers. A student of another --hidden_size starts
from a published BERT of its own shape, or from scratch; its heads have the
teacher's size and its layers the teacher's proportions. --published names one
of Google's 24 small BERTs instead:

  python examples/make_student_config.py \
    --bert_config_file teacher/bert_config.json --published L-4_H-256 \
    --published_dir models/uncased_L-4_H-256_A-4 \
    --vocab_file teacher/vocab.txt --output_file student/bert_config.json

Without --published_dir the shape alone is taken. With it, the checkpoint and
the vocabulary in that folder are compared with the config and with vocab_file.
"""

import dataclasses
import math
import os
import pathlib
import sys
from typing import List, Mapping, Optional, Tuple

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
from absl import logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import checkpoints
import modeling
from records import input_pipeline
from records import sampling
from util import command_line
from util import files
from util.command_line import InputError

# Variables are float32.
_BYTES_PER_PARAMETER = 4
# Google's small BERTs of 2020 (Turc et al. 2019, arXiv 1908.08962): each number
# of layers with each hidden size, heads of 64 units, 4 x as many units between.
_PUBLISHED_LAYERS = (2, 4, 6, 8, 10, 12)
_PUBLISHED_SIZES = (128, 256, 512, 768)
_PUBLISHED_HEAD_SIZE = 64
_PUBLISHED = ["L-{}_H-{}".format(layers, size)
              for layers in _PUBLISHED_LAYERS for size in _PUBLISHED_SIZES]
_VOCAB_FILE = "vocab.txt"


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("bert_config_file", None, "Config of the teacher.")
  flags.DEFINE_integer(
      "layers", None, "Layers of the student. Needed without published.",
      lower_bound=1)
  flags.DEFINE_integer(
      "hidden_size", None, "The student's hidden size; default: the teacher's.",
      lower_bound=1)
  flags.DEFINE_enum(
      "published", None, _PUBLISHED,
      "Shape of one of Google's 24 small BERTs, in place of layers and "
      "hidden_size: 2 to 12 layers, 128 to 768 units, heads of 64 units. Its "
      "checkpoint can be the student's init_checkpoint.")
  flags.DEFINE_string(
      "published_dir", None,
      "Folder of that BERT, with bert_model.ckpt.* and vocab.txt, to compare "
      "with the config that is written.")
  flags.DEFINE_string(
      "vocab_file", None,
      "Vocabulary of the teacher. Needed with published_dir.")
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


def published_config(teacher: modeling.BertConfig,
                     name: str) -> modeling.BertConfig:
  """Returns the config of one of Google's small BERTs.

  Args:
    teacher: its vocabulary's size, dropout and the like are taken.
    name: of _PUBLISHED.
  """
  layers, size = (int(part.partition("-")[2]) for part in name.split("_"))
  return dataclasses.replace(
      teacher, num_hidden_layers=layers, hidden_size=size,
      num_attention_heads=size // _PUBLISHED_HEAD_SIZE,
      intermediate_size=4 * size)


def check_published(config: modeling.BertConfig, folder: str,
                    vocab_file: str) -> None:
  """Compares a published BERT with the student's config and the teacher.

  A vocabulary with other tokens is a warning: a vocabulary decides what each
  id means, and the student is to learn from the teacher's ids.

  Args:
    config: of the student.
    folder: of the published BERT.
    vocab_file: the teacher's vocabulary.

  Raises:
    InputError: the checkpoint lacks a part of the model or has other shapes,
      or a vocabulary cannot be read.
  """
  checkpoint = os.path.join(folder, checkpoints.CHECKPOINT_FILE)
  try:
    match = checkpoints.match_checkpoint(config, checkpoint, "published_dir")
  except InputError as error:
    # The shape is that of another flag here.
    raise InputError(str(error).replace(
        "--bert_config_file", "--published")) from None
  if match.missing:
    logging.warning(
        "--published_dir: %s lacks %s; these start from scratch.", checkpoint,
        checkpoints.summarize(match.missing))
  path = os.path.join(folder, _VOCAB_FILE)
  teacher = sampling.read_vocabulary(vocab_file)
  try:
    published = sampling.read_vocabulary(path)
  except InputError as error:
    raise InputError(str(error).replace(
        "--vocab_file", "--published_dir", 1)) from None
  difference = vocabulary_difference(teacher, published)
  if difference:
    logging.warning(
        "--published_dir: %s and --vocab_file=%s differ: %s. The student reads "
        "the teacher's ids, which mean other tokens to this checkpoint: take "
        "one with the teacher's vocabulary, or start from scratch.", path,
        vocab_file, difference)


def vocabulary_difference(teacher: Mapping[str, int],
                          student: Mapping[str, int]) -> Optional[str]:
  """Returns how two vocabularies differ by content; None where they do not.

  Args:
    teacher: ids by token.
    student: likewise.
  """
  if teacher == student:
    return None
  tokens = [{number: token for token, number in vocab.items()}
            for vocab in (teacher, student)]
  different = [number for number in sorted(set(tokens[0]) | set(tokens[1]))
               if tokens[0].get(number) != tokens[1].get(number)]
  return ("{:,} of {:,} ids have another token, such as {}: {!r} and "
          "{!r}").format(
      len(different), len(tokens[0]), different[0],
      *(each.get(different[0], "none") for each in tokens))


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


def check_choice(published: Optional[str], layers: Optional[int],
                 hidden_size: Optional[int], folder: Optional[str],
                 vocab_file: Optional[str]) -> None:
  """Raises InputError where the flags name no shape, or two of them."""
  if published and (layers or hidden_size):
    raise InputError(
        "--published={} is a shape; leave --{} out".format(
            published, "layers" if layers else "hidden_size"))
  if not (published or layers):
    raise InputError(
        "missing --layers (layers of the student), or --published (one of "
        "Google's small BERTs); see --help")
  if folder and not published:
    raise InputError(
        "--published_dir={} needs --published, the shape of that BERT, such "
        "as {}".format(folder, _PUBLISHED[0]))
  if folder and not vocab_file:
    raise InputError("--published_dir={} needs --vocab_file, the teacher's "
                     "vocabulary to compare with".format(folder))


def main() -> None:
  output_file, hidden_size = flags.FLAGS.output_file, flags.FLAGS.hidden_size
  max_seq_length = flags.FLAGS.max_seq_length
  teacher = checkpoints.load_config(
      flags.FLAGS.bert_config_file, max_seq_length)
  published, folder = flags.FLAGS.published, flags.FLAGS.published_dir
  check_choice(published, flags.FLAGS.layers, hidden_size, folder,
               flags.FLAGS.vocab_file)
  student = (published_config(teacher, published) if published else
             student_config(teacher, flags.FLAGS.layers,
                            hidden_size or teacher.hidden_size))
  _warn_of_size(teacher, student)
  if folder:
    check_published(student, folder, flags.FLAGS.vocab_file)
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
  command_line.run(main, required=("bert_config_file", "output_file"))
