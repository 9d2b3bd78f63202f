r"""Shows where students' probability outside the stored tokens goes.

  python benchmarks/rest_of_students.py \
    --input_file data/labelled/heldout.tfrecord \
    --models 'teacher=teacher,bucket=student/bucket,drop=student/drop'

A model is a folder with bert_config.json and bert_model.ckpt.*. The records
store the teacher's most probable tokens. By the chain rule the cross entropy of
the masked tokens is the sum of two terms: which stored token it is, or none of
them; and, where it is none, which token of the rest. The first is what stored
tokens teach, the second is what they leave out. The table has both, the mean
probability of the rest, and how much of that the thousand tokens have that are
masked most often.

Labels to train on, named with --labels in the same way, are compared by how
many of the vocabulary's tokens they name at all, and ten times or more, and by
the share of the held-out masked tokens that they name less often.
"""

import os
import pathlib
import sys
from typing import Mapping, NamedTuple

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
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
# A token that is stored less often is hardly learned from.
_MIN_ENTRIES = 10


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("input_file", None, "Labelled records.")
  flags.DEFINE_string("models", None, "NAME=FOLDER, separated by commas.")
  flags.DEFINE_list("labels", [], "NAME=FILE, separated by commas.")
  flags.DEFINE_integer("num_records", 400, "Records to look at.", lower_bound=1)
  flags.DEFINE_integer(
      "truncation_factor", 10, "K, the stored tokens of a slot.", lower_bound=1)
  input_pipeline.define_flags()


class Rest(NamedTuple):
  """What a model does outside the stored tokens, means over all slots.

  Attributes:
    mass: its probability there.
    cross_entropy: of the masked tokens.
    within: the part of it that is due to the choice within the rest.
    frequent: share of the rest's probability that frequent tokens have.
  """
  mass: float
  cross_entropy: float
  within: float
  frequent: float


def measure(logits: np.ndarray, stored: np.ndarray, masked_tokens: np.ndarray,
            frequent: np.ndarray) -> Rest:
  """Measures a model.

  Args:
    logits: float32 [N, V].
    stored: the tokens that are stored, int [N, K].
    masked_tokens: int [N].
    frequent: ids of frequent tokens.
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
  """Reads the labelled records, arrays by feature name."""
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
        "{:<32} names {:,} tokens, {:,} of them {} times; {:.1%} of the "
        "held-out masked tokens are named less often\n".format(
            name, np.count_nonzero(counts),
            np.count_nonzero(counts >= _MIN_ENTRIES), _MIN_ENTRIES,
            np.mean(counts[masked_tokens] < _MIN_ENTRIES)))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file", "models"))
