r"""Writes the config of a student, and prints its size beside the teacher's.

  python examples/make_student_config.py \
    --bert_config_file teacher/bert_config.json --layers 6 \
    --output_file student/bert_config.json

The other values of the config are the teacher's. A student of the teacher's
hidden size can start from the teacher's layers. A student of another
--hidden_size keeps the teacher's size of a head and proportions of a layer, and
starts from scratch or from a published BERT of the same shape. --published
gives the student the shape of one of Google's 24 small BERTs:

  python examples/make_student_config.py \
    --bert_config_file teacher/bert_config.json --published L-4_H-256 \
    --published_dir models/uncased_L-4_H-256_A-4 \
    --vocab_file teacher/vocab.txt --output_file student/bert_config.json

With --published_dir, the script compares the checkpoint in that folder with the
config, and the vocabulary in that folder with vocab_file.
"""

import dataclasses
import math
import os
import pathlib
import sys
from typing import List, Mapping, Optional, Tuple

if __name__ == "__main__":  # TensorFlow reads this once, at import.
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
# Google's small BERTs of 2020 (Turc et al. 2019, arXiv 1908.08962) combine each
# number of layers with each hidden size. A head has 64 units; the intermediate
# size is 4 times the hidden size.
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
      "layers", None,
      "Number of the student's layers. Required without published.",
      lower_bound=1)
  flags.DEFINE_integer(
      "hidden_size", None, "The student's hidden size. Default: the teacher's.",
      lower_bound=1)
  flags.DEFINE_enum(
      "published", None, _PUBLISHED,
      "Shape of one of Google's 24 small BERTs, instead of layers and "
      "hidden_size: 2 to 12 layers, 128 to 768 units, heads of 64 units. The "
      "student can start from the checkpoint of this BERT.")
  flags.DEFINE_string(
      "published_dir", None,
      "Folder with bert_model.ckpt.* and vocab.txt of the published BERT, to "
      "compare with the config and with vocab_file.")
  flags.DEFINE_string(
      "vocab_file", None,
      "Vocabulary of the teacher. Required with published_dir.")
  flags.DEFINE_string("output_file", None, "Config to write.")
  flags.DEFINE_bool(
      "overwrite", False, "Whether to replace another config in output_file.")
  input_pipeline.define_flags()


def student_config(teacher: modeling.BertConfig, num_layers: int,
                   hidden_size: int) -> modeling.BertConfig:
  """Returns the config of a student.

  Args:
    teacher: the teacher's config.
    num_layers: number of the student's layers.
    hidden_size: the student's hidden size.

  Raises:
    InputError: if the hidden size is not a multiple of the size of a head.
  """
  head_size = teacher.hidden_size // teacher.num_attention_heads
  if hidden_size % head_size:
    raise InputError(
        "--hidden_size={} must be a multiple of {}, the size of the teacher's "
        "attention heads; give {}".format(
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
    teacher: config with all other values, such as the vocabulary's size.
    name: one of _PUBLISHED.
  """
  layers, size = (int(part.partition("-")[2]) for part in name.split("_"))
  return dataclasses.replace(
      teacher, num_hidden_layers=layers, hidden_size=size,
      num_attention_heads=size // _PUBLISHED_HEAD_SIZE,
      intermediate_size=4 * size)


def check_published(config: modeling.BertConfig, folder: str,
                    vocab_file: str) -> None:
  """Compares a published BERT with the student's config and the teacher.

  Logs a warning if the vocabularies differ: the student trains on the teacher's
  token ids.

  Args:
    config: the student's config.
    folder: folder of the published BERT.
    vocab_file: path of the teacher's vocabulary.

  Raises:
    InputError: if the checkpoint has other shapes than the config, or if a file
      is missing or damaged.
  """
  checkpoint = os.path.join(folder, checkpoints.CHECKPOINT_FILE)
  match = checkpoints.match_checkpoint(
      config, checkpoint, "published_dir",
      config_source="--published and --bert_config_file")
  if match.missing:
    logging.warning(
        "--published_dir: %s lacks %s; these start from scratch.", checkpoint,
        checkpoints.summarize(match.missing))
  path = os.path.join(folder, _VOCAB_FILE)
  teacher = sampling.read_vocabulary(vocab_file)
  difference = vocabulary_difference(
      teacher, sampling.read_vocabulary(path, "published_dir"))
  if difference:
    logging.warning(
        "--published_dir: %s and --vocab_file=%s differ: %s. The student reads "
        "the teacher's ids: choose a checkpoint with the teacher's vocabulary, "
        "or start from scratch.", path, vocab_file, difference)


def vocabulary_difference(teacher: Mapping[str, int],
                          student: Mapping[str, int]) -> Optional[str]:
  """Describes the difference of two vocabularies; returns None if equal.

  Args:
    teacher: maps the teacher's tokens to ids.
    student: maps the student's tokens to ids.
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
  """Counts the multiplications and additions per sequence.

  The count includes only the matrix products of the forward pass. Training
  needs three times as many.

  Args:
    config: config of the model.
    max_seq_length: S.
    max_predictions_per_seq: P.
  """
  size, length = config.hidden_size, max_seq_length
  # Queries, keys, values and output; then the feed-forward layers.
  of_layer = length * (4 * size ** 2 + 2 * size * config.intermediate_size)
  of_attention = 2 * length ** 2 * size  # Scores and weighted values.
  of_head = max_predictions_per_seq * (size ** 2 + size * config.vocab_size)
  return 2 * (config.num_hidden_layers * (of_layer + of_attention) + size ** 2
              + of_head)


def comparison(teacher: modeling.BertConfig, student: modeling.BertConfig,
               max_seq_length: int, max_predictions_per_seq: int) -> str:
  """Returns a table of the size and arithmetic of teacher and student."""
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
  """Warns if the student has more layers and is not narrower."""
  if (student.num_hidden_layers > teacher.num_hidden_layers
      and student.hidden_size >= teacher.hidden_size):
    logging.warning(
        "The student is larger than the teacher: give fewer --layers than the "
        "teacher's %d, or a smaller --hidden_size than the teacher's %d.",
        teacher.num_hidden_layers, teacher.hidden_size)


def check_choice(published: Optional[str], layers: Optional[int],
                 hidden_size: Optional[int], folder: Optional[str],
                 vocab_file: Optional[str]) -> None:
  """Raises InputError if the flags set no shape, or two shapes."""
  if published and (layers or hidden_size):
    raise InputError(
        "--published={} sets the shape; remove --{}".format(
            published, "layers" if layers else "hidden_size"))
  if not (published or layers):
    raise InputError(
        "missing --layers (layers of the student), or --published (one of "
        "Google's small BERTs); see --help")
  if folder and not published:
    raise InputError(
        "--published_dir={} needs --published; give the shape of the BERT in "
        "that folder, such as {}".format(folder, _PUBLISHED[0]))
  if folder and not vocab_file:
    raise InputError("--published_dir={} needs --vocab_file; give the "
                     "teacher's vocabulary".format(folder))


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
        "--output_file={} holds another config; choose another name, or give "
        "--overwrite=True".format(output_file))
  files.make_output_folder(os.path.dirname(output_file), "output_file")
  files.write_atomically(output_file, text)
  sys.stdout.write(comparison(
      teacher, student, max_seq_length, flags.FLAGS.max_predictions_per_seq))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("bert_config_file", "output_file"))
