"""Tests of truncation, loss and metrics."""

import numpy as np
import pytest
import tensorflow as tf

import distillation
import tiny

_LOGITS = np.log(np.float32([
    [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.15, 0.05], [0.25, 0.25, 0.4, 0.1]]))


def test_truncation_keeps_the_most_probable_words():
  labels = distillation.truncate(tf.constant(_LOGITS), 2)
  np.testing.assert_allclose(
      labels.probabilities, [[0.4, 0.3], [0.7, 0.15], [0.4, 0.25]], rtol=1e-6)
  np.testing.assert_array_equal(labels.indices, [[3, 2], [0, 2], [2, 0]])


def test_temperature_flattens_the_distribution():
  # The square root of 0.1, 0.2, 0.3 and 0.4, over their sum.
  labels = distillation.truncate(tf.constant(_LOGITS[:1]), 4, temperature=2.0)
  roots = np.sqrt([0.4, 0.3, 0.2, 0.1])
  np.testing.assert_allclose(
      labels.probabilities, [roots / roots.sum()], rtol=1e-6)


@pytest.mark.parametrize("size, top_k", [(1000, 3), (1024, 4), (129, 1),
                                         (300, 200)])
def test_top_words_are_those_of_top_k(size, top_k):
  generator = np.random.default_rng(size)
  # Few different values, so that many are equal.
  values = tf.constant(generator.integers(0, 40, (50, size)) / 40, tf.float32)
  for found, wanted in zip(distillation.top_words(values, top_k),
                           tf.math.top_k(values, top_k)):
    np.testing.assert_array_equal(found, wanted)


def _drawn_labels(logits, top_k, num_draws, count):
  """Truncates one distribution `count` times, with draws of its own each."""
  draws = np.random.default_rng(0).random((count, num_draws), np.float32)
  return distillation.truncate(
      tf.repeat(tf.constant(logits[np.newaxis]), count, axis=0), top_k,
      draws=tf.constant(draws))


def test_drawn_words_share_the_mass_of_the_rest():
  labels = _drawn_labels(_LOGITS[0], 3, 2, 100)
  np.testing.assert_allclose(labels.probabilities, [[0.4, 0.3, 0.3]] * 100,
                             rtol=1e-5)
  np.testing.assert_array_equal(labels.indices[:, 0], [3] * 100)
  # Words 0, 1 and 2 are the rest, in the ratio 1 : 2 : 3.
  counts = np.bincount(np.ravel(labels.indices[:, 1:]), minlength=4)
  np.testing.assert_allclose(counts / 200, [1 / 6, 2 / 6, 3 / 6, 0], atol=0.1)


def test_the_mean_target_is_the_whole_distribution():
  generator = np.random.default_rng(1)
  logits = 2 * generator.standard_normal(40).astype(np.float32)
  wanted = np.exp(logits) / np.exp(logits).sum()
  errors = []
  for count in (100, 10000):
    labels = _drawn_labels(logits, 8, 4, count)
    np.testing.assert_allclose(
        np.sum(labels.probabilities, axis=-1), 1, rtol=1e-5)
    mean = np.bincount(np.ravel(labels.indices), np.ravel(labels.probabilities),
                       minlength=40) / count
    errors.append(np.abs(mean - wanted).sum())
  # A hundred times as many draws: a tenth of the error, give or take.
  assert errors[1] < 0.02
  assert 4 < errors[0] / errors[1] < 25


def test_the_extremes_of_the_draws_are_words_of_the_rest():
  draws = tf.constant([[0.0, 1 - 2.0 ** -23]])
  logits = tf.constant([[0.0, 1.0, -200.0, 2.0, 0.0]])
  labels = distillation.truncate(logits, 3, draws=draws)
  assert labels.indices.numpy().tolist() == [[3, 0, 4]]


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
  labels = distillation.truncate(tf.constant(teacher), 29)
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
