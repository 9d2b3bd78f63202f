r"""Measures what the truncation of the teacher does to the student's gradient.

  python benchmarks/tail_samples.py \
    --teacher_config teacher/bert_config.json \
    --teacher_checkpoint teacher/bert_model.ckpt \
    --student_config student/bert_config.json \
    --student_checkpoint student/run/model.ckpt-1000 \
    --input_file data/masked/wiki_masked_0.tfrecord

For the masked tokens of some records it compares the gradient of the student's
loss with regard to its logits, for stored labels of several kinds, with the
gradient for the teacher's whole distribution: the cosine over all slots, and
how the error of the mean stored target falls with the number of draws.
"""

import os
import pathlib
import sys
from typing import Mapping

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import tensorflow as tf

from distillation import checkpoints
from distillation import losses
from distillation import teacher
import modeling
from records import input_pipeline
from records import order
from records import schema
from util import command_line
from util import files

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_KINDS = (("top 10", 10, 0), ("top 20", 20, 0), ("10 + 10 drawn", 20, 10))
_DRAW_COUNTS = (100, 1000, 10000)
# Slots that the draws are averaged for, and how many of them are made at once.
_NUM_DRAWN_SLOTS = 8
_DRAW_BATCH = 100


def define_flags() -> None:
  """Defines the flags of the script."""
  for model in ("teacher", "student"):
    flags.DEFINE_string(model + "_config", None, "Its bert_config.json.")
    flags.DEFINE_string(model + "_checkpoint", None, "Its checkpoint.")
  flags.DEFINE_string("input_file", None, "Masked records.")
  flags.DEFINE_integer("num_records", 32, "Records to look at.")
  input_pipeline.define_flags()


def masked_lm_logits(config_file: str, checkpoint: str,
                     features: Mapping[str, np.ndarray]) -> tf.Tensor:
  """Runs a model; returns its logits at the masked tokens, float32 [N, V]."""
  config = checkpoints.load_config(config_file)
  with tf.Graph().as_default(), tf1.Session() as session:
    logits = modeling.pretraining_logits(
        config, False, *(tf.constant(features[name]) for name in (
            schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS,
            schema.MASKED_LM_POSITIONS)),
        is_wanted=tf.constant(features[schema.MASKED_LM_WEIGHTS] > 0),
        has_next_sentence=False).masked_lm
    checkpoints.restore(checkpoint)
    session.run(tf1.global_variables_initializer())
    values = session.run(logits)
  return tf.constant(values)


def gradient(student: tf.Tensor, labels: losses.TeacherLabels) -> np.ndarray:
  """Returns the gradient of the loss by the student's logits, [N, V]."""
  with tf.GradientTape() as tape:
    tape.watch(student)
    loss = tf.reduce_sum(losses.teacher_cross_entropies(student, labels))
  return tape.gradient(loss, student).numpy()


def compare_gradients(teacher_logits: tf.Tensor, student_logits: tf.Tensor,
                      generator: np.random.Generator) -> None:
  """Prints how near each kind of labels comes to the full gradient."""
  full = (tf.nn.softmax(student_logits) - tf.nn.softmax(teacher_logits)).numpy()
  sys.stdout.write("stored          mass   cosine with the full gradient\n")
  for name, top_k, num_draws in _KINDS:
    draws = generator.random((len(full), num_draws), np.float32)
    labels = losses.truncate(
        teacher_logits, top_k, draws=tf.constant(draws) if num_draws else None)
    found = gradient(student_logits, labels)
    cosine = (found * full).sum() / (
        np.linalg.norm(found) * np.linalg.norm(full))
    sys.stdout.write("{:14s} {:.3f}   {:.4f}\n".format(
        name, np.sum(labels.probabilities, axis=-1).mean(), cosine))


def average_draws(teacher_logits: tf.Tensor,
                  generator: np.random.Generator) -> None:
  """Prints how near the mean of many draws comes to the teacher."""
  whole = tf.nn.softmax(teacher_logits).numpy()
  sys.stdout.write(
      "draws   distance of the mean target from the teacher's distribution\n")
  for count in _DRAW_COUNTS:
    distances = []
    for row in range(min(_NUM_DRAWN_SLOTS, len(whole))):
      targets = np.zeros(whole.shape[1])
      for _ in range(0, count, _DRAW_BATCH):
        draws = generator.random((_DRAW_BATCH, 10), np.float32)
        labels = losses.truncate(
            tf.repeat(teacher_logits[row:row + 1], _DRAW_BATCH, axis=0), 20,
            draws=tf.constant(draws))
        np.add.at(targets, np.ravel(labels.indices),
                  np.ravel(labels.probabilities))
      distances.append(np.linalg.norm(targets / count - whole[row]))
    sys.stdout.write("{:5d}   {:.6f}\n".format(count, np.mean(distances)))


def main() -> None:
  shape = schema.RecordShape(FLAGS.max_seq_length,
                             FLAGS.max_predictions_per_seq)
  features = next(teacher.read_windows(
      order.read_corpus(files.find_files(FLAGS.input_file, "input_file"),
                        "input_file"), shape,
      teacher.Share(0, FLAGS.num_records), FLAGS.num_records)).features
  teacher_logits, student_logits = (
      masked_lm_logits(config_file, checkpoint, features)
      for config_file, checkpoint in (
          (FLAGS.teacher_config, FLAGS.teacher_checkpoint),
          (FLAGS.student_config, FLAGS.student_checkpoint)))
  generator = np.random.default_rng(0)
  compare_gradients(teacher_logits, student_logits, generator)
  average_draws(teacher_logits, generator)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "teacher_config", "teacher_checkpoint", "student_config",
      "student_checkpoint", "input_file"))
