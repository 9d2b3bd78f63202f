r"""Measures students' probability outside the teacher's stored tokens.

  python benchmarks/rest_of_students.py \
    --input_file data/labelled/heldout.tfrecord \
    --models 'teacher=teacher,bucket=student/bucket,drop=student/drop'

A model is a folder with bert_config.json and bert_model.ckpt.*. The records
store the teacher's most probable tokens. The tokens that are not stored form
the rest. By the chain rule, the cross entropy of the masked tokens is the sum
of two terms: the choice among the stored tokens and the rest as a whole, and
the choice within the rest. Stored tokens teach the first term only. The table
has both terms, the mean probability of the rest, and the share of the rest's
probability on the thousand most frequently masked tokens.

For training labels given with --labels, the benchmark prints how many tokens of
the vocabulary the labels store at least once, how many at least ten times, and
the share of held-out masked tokens that the labels store less than ten times.
"""

import os
import pathlib
import sys
from typing import Mapping, NamedTuple

if __name__ == "__main__":  # TensorFlow reads this variable at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import tensorflow as tf
import tqdm

from benchmarks import tail_samples
from distillation import checkpoints
from records import input_pipeline
from records import order
from records import schema
from records import tfrecord
from util import command_line
from util import files

_NUM_FREQUENT = 1000
# A token stored less often contributes little to training.
_MIN_ENTRIES = 10


def define_flags() -> None:
  flags.DEFINE_string("input_file", None, "Labelled records.")
  flags.DEFINE_string("models", None, "NAME=FOLDER, separated by commas.")
  flags.DEFINE_list("labels", [], "NAME=FILE, separated by commas.")
  flags.DEFINE_integer("num_records", 400, "Records to read.", lower_bound=1)
  flags.DEFINE_integer(
      "truncation_factor", 10, "K, the teacher entries stored for each slot.",
      lower_bound=1)
  input_pipeline.define_flags()


class Rest(NamedTuple):
  """A model's probability of the tokens not stored, as means over all slots.

  Attributes:
    mass: probability of the rest.
    cross_entropy: cross entropy of the masked tokens, in nats.
    within: part of the cross entropy for the choice within the rest.
    frequent: share of the rest's probability on frequent tokens.
  """
  mass: float
  cross_entropy: float
  within: float
  frequent: float


def measure(logits: np.ndarray, stored: np.ndarray, masked_tokens: np.ndarray,
            frequent: np.ndarray) -> Rest:
  """Computes the measures of a model.

  Args:
    logits: logits of the masked tokens, float32 [N, V].
    stored: ids of the stored tokens, int [N, K].
    masked_tokens: ids of the masked tokens, int [N].
    frequent: ids of frequent tokens, int.
  """
  log_student = tf.nn.log_softmax(tf.cast(logits, tf.float64)).numpy()
  rest = np.exp(log_student)
  np.put_along_axis(rest, stored, 0, axis=-1)
  mass = rest.sum(axis=-1)
  of_masked = log_student[np.arange(len(logits)), masked_tokens]
  is_rest = (stored != masked_tokens[:, np.newaxis]).all(axis=-1)
  within = np.where(is_rest, np.log(mass) - of_masked, 0)
  return Rest(mass.mean(), -of_masked.mean(), within.mean(),
              (rest[:, frequent].sum(axis=-1) / mass).mean())


def read_records(shape: schema.RecordShape, vocab_size: int
                ) -> Mapping[str, np.ndarray]:
  """Reads the labelled records; returns arrays by feature name."""
  paths = files.find_files(flags.FLAGS.input_file, "input_file")
  input_pipeline.check_records(paths, "input_file", shape, vocab_size)
  read = input_pipeline.evaluation_input_fn(
      order.read_corpus(paths, "input_file"), shape, "input_file")
  batch = next(iter(read({"batch_size": flags.FLAGS.num_records})))
  return {name: tensor.numpy() for name, tensor in batch.items()}


def count_entries(path: str, num_tokens: int) -> np.ndarray:
  """Counts how often labels store each token, int [V]."""
  counts = np.zeros(num_tokens, np.int64)
  for serialized in tqdm.tqdm(tfrecord.read(path, "labels"), desc=path,
                              unit=" records", disable=None, leave=False):
    features = tfrecord.decode(serialized)
    is_real = features[schema.MASKED_LM_WEIGHTS] > 0
    entries = features[schema.TEACHER_INDICES].reshape(len(is_real), -1)
    np.add.at(counts, entries[is_real], 1)
  return counts


def main() -> None:
  models = [model.partition("=")[::2]
            for model in flags.FLAGS.models.split(",")]
  configs = [checkpoints.load_config(os.path.join(
      folder, checkpoints.CONFIG_FILE)) for _, folder in models]
  features = read_records(schema.RecordShape(
      flags.FLAGS.max_seq_length, flags.FLAGS.max_predictions_per_seq,
      flags.FLAGS.truncation_factor), configs[0].vocab_size)
  is_real = features[schema.MASKED_LM_WEIGHTS] > 0
  stored = features[schema.TEACHER_INDICES][is_real]
  masked_tokens = features[schema.MASKED_LM_IDS][is_real]
  counts = np.bincount(masked_tokens)
  frequent = np.argsort(-counts)[:_NUM_FREQUENT]
  sys.stdout.write("{:<32} rest  cross entropy = which + within the rest  "
                   "frequent\n".format("model"))
  for name, folder in models:
    rest = measure(tail_samples.masked_lm_logits(
        os.path.join(folder, checkpoints.CONFIG_FILE),
        os.path.join(folder, checkpoints.CHECKPOINT_FILE), features).numpy(),
                   stored, masked_tokens, frequent)
    sys.stdout.write(
        "{:<32} {:.3f} {:14.3f} {:7.3f} {:17.3f} {:9.3f}\n".format(
            name, rest.mass, rest.cross_entropy,
            rest.cross_entropy - rest.within, rest.within, rest.frequent))
  for labels in flags.FLAGS.labels:
    name, _, path = labels.partition("=")
    counts = count_entries(path, configs[0].vocab_size)
    sys.stdout.write(
        "{:<32} store {:,} tokens, {:,} of them at least {} times; {:.1%} of "
        "the held-out masked tokens are stored less often\n".format(
            name, np.count_nonzero(counts),
            np.count_nonzero(counts >= _MIN_ENTRIES), _MIN_ENTRIES,
            np.mean(counts[masked_tokens] < _MIN_ENTRIES)))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file", "models"))
