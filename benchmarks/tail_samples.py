r"""Measures what the truncation of the teacher does to the student's gradient.

  python benchmarks/tail_samples.py \
    --teacher_config teacher/bert_config.json \
    --teacher_checkpoint teacher/bert_model.ckpt \
    --student_config student/bert_config.json \
    --student_checkpoint student/run/model.ckpt-1000 \
    --input_file data/masked/wiki_masked_0.tfrecord

For the masked words of some records it compares the gradient of the student's
loss with regard to its scores, for stored labels of several kinds, with the
gradient for the teacher's whole distribution: the cosine over all slots, and
how the error of the mean stored target falls with the number of draws.
"""

import os
import sys

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
import numpy as np
import tensorflow as tf

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))
# pylint: disable=wrong-import-position
import command_line
import distillation
import extract_teacher_labels_truncated as extraction
import modeling
import records

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_KINDS = (("top 10", 10, 0), ("top 20", 20, 0), ("10 + 10 drawn", 20, 10))
_DRAW_COUNTS = (100, 1000, 10000)


def define_flags() -> None:
  """Defines the flags of the script."""
  for model in ("teacher", "student"):
    flags.DEFINE_string(model + "_config", None, "Its bert_config.json.")
    flags.DEFINE_string(model + "_checkpoint", None, "Its checkpoint.")
  flags.DEFINE_string("input_file", None, "Masked records.")
  flags.DEFINE_integer("num_records", 32, "Records to look at.")
  command_line.define_record_lengths()


def scores(config_file: str, checkpoint: str, features) -> np.ndarray:
  """Runs a model; returns its scores at the masked words, float32 [R, V]."""
  config = modeling.BertConfig.from_json_file(config_file)
  with tf.Graph().as_default(), tf1.Session() as session:
    logits = modeling.real_masked_lm_logits(
        config, *(tf.constant(features[name]) for name in (
            records.INPUT_IDS, records.INPUT_MASK, records.SEGMENT_IDS,
            records.MASKED_LM_POSITIONS)),
        tf.constant(features[records.MASKED_LM_WEIGHTS] > 0))
    modeling.restore(checkpoint)
    session.run(tf1.global_variables_initializer())
    return session.run(logits)


def gradient(student: tf.Tensor, labels: distillation.TeacherLabels
            ) -> np.ndarray:
  """Returns the gradient of the loss by the student's scores, [R, V]."""
  with tf.GradientTape() as tape:
    tape.watch(student)
    loss = tf.reduce_sum(distillation.teacher_cross_entropies(student, labels))
  return tape.gradient(loss, student).numpy()


def main() -> None:
  shape = records.RecordShape(FLAGS.max_seq_length,
                              FLAGS.max_predictions_per_seq)
  files = records.find_files(FLAGS.input_file, "input_file")
  _, _, features = next(extraction.windows(
      files, shape, extraction.Share(0, FLAGS.num_records), FLAGS.num_records))
  teacher = tf.constant(
      scores(FLAGS.teacher_config, FLAGS.teacher_checkpoint, features))
  student = tf.constant(
      scores(FLAGS.student_config, FLAGS.student_checkpoint, features))
  generator = np.random.default_rng(0)
  say = sys.stdout.write

  whole = tf.nn.softmax(teacher)
  full_gradient = (tf.nn.softmax(student) - whole).numpy()
  say("stored          mass   cosine with the full gradient\n")
  for name, top_k, num_draws in _KINDS:
    draws = generator.random((len(teacher), num_draws), np.float32)
    labels = distillation.truncate(
        teacher, top_k, draws=tf.constant(draws) if num_draws else None)
    found = gradient(student, labels)
    cosine = (found * full_gradient).sum() / (
        np.linalg.norm(found) * np.linalg.norm(full_gradient))
    say("{:14s} {:.3f}   {:.4f}\n".format(
        name, np.sum(labels.probabilities, axis=-1).mean(), cosine))

  say("draws   distance of the mean target from the teacher's distribution\n")
  for count in _DRAW_COUNTS:
    distances = []
    for row in range(8):
      targets = np.zeros(teacher.shape[1])
      for start in range(0, count, 100):
        draws = tf.constant(generator.random((100, 10), np.float32))
        labels = distillation.truncate(
            tf.repeat(teacher[row:row + 1], 100, axis=0), 20, draws=draws)
        np.add.at(targets, np.ravel(labels.indices),
                  np.ravel(labels.probabilities))
      distances.append(np.linalg.norm(targets / count - whole[row].numpy()))
    say("{:5d}   {:.6f}\n".format(count, np.mean(distances)))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "teacher_config", "teacher_checkpoint", "student_config",
      "student_checkpoint", "input_file"))
