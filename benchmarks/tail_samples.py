r"""Measures the effect of truncated labels on the student's gradient.

  python benchmarks/tail_samples.py \
    --teacher_config teacher/bert_config.json \
    --teacher_checkpoint teacher/bert_model.ckpt \
    --student_config student/bert_config.json \
    --student_checkpoint student/run/model.ckpt-1000 \
    --input_file data/masked/wiki_masked_0.tfrecord

For several kinds of labels, the benchmark compares the gradient of the
student's loss, with respect to the logits at masked tokens, with the gradient
for the teacher's whole distribution. It prints the mean number of stored tokens
(a token drawn twice is stored once), the cosine over all slots, and the squared
error of a slot's gradient, split into bias and variance over draws. Then it
prints the error of the mean target for several numbers of draws.
"""

import math
import os
import pathlib
import sys
from typing import (Callable, Dict, List, Mapping, NamedTuple, Optional,
                    Sequence)

if __name__ == "__main__":  # TensorFlow reads this variable at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import tensorflow as tf
import tqdm

from distillation import checkpoints
from distillation import losses
import modeling
from records import input_pipeline
from records import order
from records import schema
from util import command_line
from util import files

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_TOP_K = 10
# Draws per slot from which bias and variance are estimated.
_NUM_REPEATS = 8
_DRAW_COUNTS = (100, 1000, 10000)
# Slots whose draws are averaged, and draws at a time.
_NUM_DRAWN_SLOTS = 8
_DRAW_BATCH = 100


def define_flags() -> None:
  for model in ("teacher", "student"):
    flags.DEFINE_string(model + "_config", None,
                        "bert_config.json of the {}.".format(model))
    flags.DEFINE_string(model + "_checkpoint", None,
                        "Checkpoint of the {}.".format(model))
  flags.DEFINE_string("input_file", None, "Masked records.")
  flags.DEFINE_integer("num_records", 32, "Records to read.")
  input_pipeline.define_flags()


def masked_lm_logits(config_file: str, checkpoint: str,
                     features: Mapping[str, np.ndarray]) -> tf.Tensor:
  """Returns a model's logits at the masked tokens, float32 [N, V]."""
  config = checkpoints.load_config(config_file)
  with tf.Graph().as_default(), tf1.Session() as session:
    logits = modeling.pretraining_logits(
        config, False, *(tf.constant(features[name]) for name in (
            schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS,
            schema.MASKED_LM_POSITIONS)),
        tf.constant(
            np.flatnonzero(features[schema.MASKED_LM_WEIGHTS]), tf.int32),
        has_next_sentence=False).masked_lm
    checkpoints.restore(checkpoint)
    session.run(tf1.global_variables_initializer())
    values = session.run(logits)
  return tf.constant(values)


class Slot(NamedTuple):
  """The distributions from which a slot's stored tokens are chosen.

  Attributes:
    teacher: p, the teacher's probabilities, float64 [V].
    order: token ids in descending order of p, int [V].
    masked_token: id of the masked token.
    sequence: mean of p over the slots of the sequence, float64 [V].
  """
  teacher: np.ndarray
  order: np.ndarray
  masked_token: int
  sequence: np.ndarray


# Returns a sparse target for a slot, float64 [V].
Estimator = Callable[[Slot, np.random.Generator], np.ndarray]


def masked_token(slot: Slot, unused_generator: np.random.Generator
                ) -> np.ndarray:
  target = np.zeros_like(slot.teacher)
  target[slot.masked_token] = 1
  return target


def top(slot: Slot, unused_generator: np.random.Generator,
        count: int = _TOP_K) -> np.ndarray:
  """Stores the `count` most probable tokens."""
  target = np.zeros_like(slot.teacher)
  head = slot.order[:count]
  target[head] = slot.teacher[head]
  return target


def renormalized(slot: Slot, generator: np.random.Generator) -> np.ndarray:
  target = top(slot, generator)
  return target / target.sum()


def drawn(num_top: int, exponent: float = 1.0, is_stratified: bool = False,
          of_sequence: bool = False,
          num_drawn: Optional[int] = None) -> Estimator:
  """Returns an estimator that stores a head and draws from the tail.

  Args:
    num_top: number of tokens in the head.
    exponent: t; tokens are drawn in proportion to p^t and weighted by p^(1-t).
    is_stratified: whether each draw is from a separate part of the cumulative
      probability.
    of_sequence: whether tokens are drawn in proportion to their mean
      probability in the sequence, as if all slots shared the draws.
    num_drawn: number of independent draws with replacement; None for
      `_TOP_K - num_top`.
  """

  def estimate(slot, generator):
    target = top(slot, generator, num_top)
    count = num_drawn or _TOP_K - num_top
    tail = np.where(target > 0, 0, slot.teacher)
    chances = np.where(target > 0, 0, slot.sequence if of_sequence else
                       slot.teacher) ** exponent
    cumulated = np.cumsum(chances)
    points = generator.random(count)
    if is_stratified:
      points = (np.arange(count) + points) / count
    tokens = np.searchsorted(cumulated, points * cumulated[-1], side="right")
    np.add.at(target, tokens,
              tail[tokens] * cumulated[-1] / (chances[tokens] * count))
    return target

  return estimate


def sampled(tail_samples: int, count: int = _TOP_K) -> Estimator:
  """Returns an estimator that stores the labels of --tail_samples."""

  def estimate(slot, generator):
    labels = losses.truncate(
        tf.constant(np.log(slot.teacher[np.newaxis]), tf.float32), count,
        tail_samples=tail_samples, offsets=tf.constant(generator.random(1)))
    target = np.zeros_like(slot.teacher)
    np.add.at(target, labels.indices[0].numpy(),
              labels.probabilities[0].numpy())
    return target

  return estimate


_ESTIMATORS: Dict[str, Estimator] = {
    "masked token": masked_token,
    "top 10": top,
    "top 10, renormalised": renormalized,
    "top 8 + 2 drawn": drawn(8),
    "top 5 + 5 drawn": drawn(5),
    "top 3 + 7 drawn": drawn(3),
    "10 drawn": drawn(0),
    # Sparse Logit Sampling (Anshumann et al. 2025, arXiv 2503.16870).
    "16 drawn": drawn(0, num_drawn=16),
    "top 5 + 5 drawn in strata": drawn(5, is_stratified=True),
    "top 5 + 5 drawn by p^0.8": drawn(5, exponent=0.8),
    "top 5 + 5 drawn by p^0.5": drawn(5, exponent=0.5),
    "top 5 + 5 shared in a sequence": drawn(5, of_sequence=True),
    "--tail_samples 2": sampled(2),
    "--tail_samples 5": sampled(5),
    "--tail_samples 9": sampled(9),
    "20 tokens, --tail_samples 19": sampled(19, count=20),
}


def compare_gradients(slots: Sequence[Slot], students: np.ndarray,
                      generator: np.random.Generator) -> None:
  """Compares the gradient of each kind of labels with the full gradient.

  Args:
    slots: N slots.
    students: q, the student's probabilities, float64 [N, V].
    generator: random generator of the draws.
  """
  width = max(map(len, _ESTIMATORS))
  sys.stdout.write("{}  tokens  cosine   bias^2  variance\n".format(
      "stored".ljust(width)))
  for name, estimate in _ESTIMATORS.items():
    dot = found_norm = full_norm = bias = variance = num_stored = 0.0
    for slot, student in zip(slots, tqdm.tqdm(
        students, desc=name, unit=" slots", disable=None, leave=False)):
      full = student - slot.teacher
      targets = [estimate(slot, generator) for _ in range(_NUM_REPEATS)]
      num_stored += np.mean(list(map(np.count_nonzero, targets)))
      found = np.stack([student * target.sum() - target for target in targets])
      variance += found.var(axis=0, ddof=1).sum() / len(slots)
      # The squared error of the mean also includes variance / _NUM_REPEATS.
      bias += (((found.mean(axis=0) - full) ** 2).sum()
               - found.var(axis=0, ddof=1).sum() / _NUM_REPEATS) / len(slots)
      dot += (found[0] * full).sum()
      found_norm += (found[0] ** 2).sum()
      full_norm += (full ** 2).sum()
    sys.stdout.write("{}  {:6.2f}  {:6.3f} {:8.4f} {:9.4f}\n".format(
        name.ljust(width), num_stored / len(slots),
        dot / math.sqrt(found_norm * full_norm), bias, variance))


def make_slots(teacher_logits: tf.Tensor, features: Mapping[str, np.ndarray]
              ) -> List[Slot]:
  """Returns the slots of some records that are not padding."""
  is_real = features[schema.MASKED_LM_WEIGHTS] > 0
  masked_tokens = features[schema.MASKED_LM_IDS][is_real]
  sequences = np.nonzero(is_real)[0]
  distributions = tf.nn.softmax(tf.cast(teacher_logits, tf.float64)).numpy()
  return [Slot(distribution, np.argsort(-distribution), token,
               distributions[sequences == sequence].mean(axis=0))
          for distribution, token, sequence in zip(
              distributions, masked_tokens, sequences)]


def average_draws(teacher_logits: tf.Tensor,
                  generator: np.random.Generator) -> None:
  """Prints the distance of the mean of many draws from the teacher."""
  whole = tf.nn.softmax(teacher_logits).numpy()
  sys.stdout.write(
      "draws   distance of the mean target from the teacher's distribution\n")
  for count in _DRAW_COUNTS:
    distances = []
    for row in range(min(_NUM_DRAWN_SLOTS, len(whole))):
      targets = np.zeros(whole.shape[1])
      for _ in range(0, count, _DRAW_BATCH):
        labels = losses.truncate(
            tf.repeat(teacher_logits[row:row + 1], _DRAW_BATCH, axis=0),
            _TOP_K, tail_samples=_TOP_K - 1,
            offsets=tf.constant(generator.random(_DRAW_BATCH)))
        np.add.at(targets, np.ravel(labels.indices),
                  np.ravel(labels.probabilities))
      distances.append(np.linalg.norm(targets / count - whole[row]))
    sys.stdout.write("{:5d}   {:.6f}\n".format(count, np.mean(distances)))


def main() -> None:
  shape = schema.RecordShape(FLAGS.max_seq_length,
                             FLAGS.max_predictions_per_seq)
  features = next(input_pipeline.read_windows(
      order.read_corpus(files.find_files(FLAGS.input_file, "input_file"),
                        "input_file"), "input_file", shape, 0,
      FLAGS.num_records, FLAGS.num_records)).features
  teacher_logits, student_logits = (
      masked_lm_logits(config_file, checkpoint, features)
      for config_file, checkpoint in (
          (FLAGS.teacher_config, FLAGS.teacher_checkpoint),
          (FLAGS.student_config, FLAGS.student_checkpoint)))
  generator = np.random.default_rng(0)
  compare_gradients(
      make_slots(teacher_logits, features),
      tf.nn.softmax(tf.cast(student_logits, tf.float64)).numpy(), generator)
  average_draws(teacher_logits, generator)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "teacher_config", "teacher_checkpoint", "student_config",
      "student_checkpoint", "input_file"))
