"""Tests of truncation, loss and metrics."""

import numpy as np
import pytest
import tensorflow as tf

import distillation
import tiny

_LOGITS = np.log(np.float32([
    [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.15, 0.05], [0.25, 0.25, 0.4, 0.1]]))


def test_truncation_keeps_the_most_probable_words():
  labels = distillation.truncate(
      tf.constant(_LOGITS), tf.constant([1.0, 1.0, 0.0]), 2)
  np.testing.assert_allclose(
      labels.probabilities, [[0.4, 0.3], [0.7, 0.15], [0, 0]], rtol=1e-6)
  np.testing.assert_array_equal(labels.indices, [[3, 2], [0, 2], [0, 0]])


def test_teacher_cross_entropy_by_hand():
  labels = distillation.TeacherLabels(
      tf.constant([[0.5, 0.25], [0.0, 0.0]]), tf.constant([[3, 0], [0, 0]]))
  losses = distillation.teacher_cross_entropies(
      tf.constant(_LOGITS[:2] + 5), labels)
  np.testing.assert_allclose(
      losses, [-0.5 * np.log(0.4) - 0.25 * np.log(0.1), 0], rtol=1e-5)


def test_with_all_words_stored_it_is_the_full_cross_entropy():
  generator = np.random.default_rng(0)
  teacher, student = generator.normal(size=(2, 50, 29)).astype(np.float32)
  labels = distillation.truncate(tf.constant(teacher), tf.ones(50), 29)
  full = tf.nn.softmax_cross_entropy_with_logits(
      labels=tf.nn.softmax(teacher), logits=student)
  np.testing.assert_allclose(
      distillation.teacher_cross_entropies(tf.constant(student), labels), full,
      rtol=1e-5)


def test_a_weighted_mean_passes_over_padding():
  mean = distillation.weighted_mean(
      tf.constant([1.0, 3.0, 99.0]), tf.constant([1.0, 1.0, 0.0]))
  assert float(mean) == pytest.approx(4 / (2 + 1e-5))
  assert float(distillation.weighted_mean(tf.ones(3), tf.zeros(3))) == 0


def test_metrics_are_averaged_over_slots_not_batches():
  tf1 = tf.compat.v1
  batches = [([1.0, 1.0], [1.0, 0.0]), ([1.0, 0.0], [0.0, 7.0])]
  with tf.Graph().as_default(), tf1.Session() as session:
    weights, values = tf1.placeholder("float32"), tf1.placeholder("float32")
    metrics = distillation.evaluation_metrics(
        masked_lm_weights=weights, masked_lm_hits=values,
        masked_lm_cross_entropies=values, masked_lm_losses=values,
        next_sentence_hits=values, next_sentence_losses=values)
    session.run(tf1.local_variables_initializer())
    for batch in batches:
      session.run([update for _, update in metrics.values()],
                  dict(zip((weights, values), batch)))
    results = session.run({name: value for name, (value, _) in metrics.items()})
  assert results["masked_lm_accuracy"] == pytest.approx(1 / 3)
  assert results["masked_lm_loss"] == pytest.approx(1 / 3)
  assert results["next_sentence_loss"] == pytest.approx(8 / 4)
