"""Tests of the truncation of the teacher and of the student's losses."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from distillation import losses

_LOGITS = np.log(np.float32([
    [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.15, 0.05], [0.25, 0.25, 0.4, 0.1]]))


def test_truncation_keeps_the_most_probable_tokens():
  labels = losses.truncate(tf.constant(_LOGITS), 2)
  np.testing.assert_allclose(
      labels.probabilities, [[0.4, 0.3], [0.7, 0.15], [0.4, 0.25]], rtol=1e-6)
  np.testing.assert_array_equal(labels.indices, [[3, 2], [0, 2], [2, 0]])


def test_temperature_flattens_the_distribution():
  # Square roots of 0.1, 0.2, 0.3 and 0.4, divided by their sum.
  labels = losses.truncate(tf.constant(_LOGITS[:1]), 4, temperature=2.0)
  roots = np.sqrt([0.4, 0.3, 0.2, 0.1])
  np.testing.assert_allclose(
      labels.probabilities, [roots / roots.sum()], rtol=1e-6)


@pytest.mark.parametrize("size, top_k", [(1000, 3), (1024, 4), (129, 1),
                                         (300, 200)])
def test_top_k_entries_equal_tf_math_top_k(size, top_k):
  generator = np.random.default_rng(size)
  # Only 40 distinct values, for many ties.
  values = tf.constant(generator.integers(0, 40, (50, size)) / 40, tf.float32)
  for found, wanted in zip(losses.top_k_entries(values, top_k),
                           tf.math.top_k(values, top_k)):
    np.testing.assert_array_equal(found, wanted)


def _sample(logits, top_k, tail_samples, count):
  """Truncates one distribution `count` times, each with its own offset."""
  return losses.truncate(
      tf.repeat(tf.constant(logits[np.newaxis]), count, axis=0), top_k,
      tail_samples=tail_samples,
      offsets=tf.constant(np.random.default_rng(0).random(count)))


def test_a_sample_of_the_tail_by_hand():
  """The head is 0.4; two samples are drawn from 0.3, 0.2, 0.06 and 0.04."""
  labels = _sample(np.log(np.float32([0.3, 0.06, 0.4, 0.04, 0.2])), 3, 2, 2000)
  # The tail has 0.6, so the threshold of two samples is 0.3. The token with 0.3
  # is drawn with certainty; the other sample represents the remaining 0.3.
  np.testing.assert_allclose(labels.probabilities, [[0.4, 0.3, 0.3]] * 2000,
                             rtol=1e-5)
  indices = labels.indices.numpy()
  np.testing.assert_array_equal(indices[:, 0], 2)
  assert (np.sort(indices[:, 1:], axis=-1) == [0]).any(axis=-1).all()
  counts = np.bincount(np.ravel(indices[:, 1:]), minlength=5)
  np.testing.assert_allclose(
      counts / 2000, [1, 0.2, 0, 0.04 / 0.3, 0.2 / 0.3], atol=0.03)


def test_a_sample_holds_no_token_twice():
  generator = np.random.default_rng(5)
  logits = 3 * generator.standard_normal((500, 60)).astype(np.float32)
  labels = losses.truncate(
      tf.constant(logits), 12, tail_samples=11,
      offsets=tf.constant(generator.random(500)))
  for indices in labels.indices.numpy():
    assert len(set(indices)) == 12
  assert np.all(np.diff(labels.probabilities.numpy()[:, 1:], axis=-1) <= 0)
  # A token is stored with its own probability or with the higher threshold.
  stored = np.take_along_axis(
      tf.nn.softmax(logits).numpy(), labels.indices.numpy(), axis=-1)
  assert np.all(labels.probabilities.numpy() >= stored * (1 - 1e-6))


@pytest.mark.parametrize("tail_samples", [1, 4, 7])
def test_the_mean_target_is_the_whole_distribution(tail_samples):
  generator = np.random.default_rng(1)
  logits = 2 * generator.standard_normal(40).astype(np.float32)
  wanted = np.exp(logits) / np.exp(logits).sum()
  errors = []
  for count in (100, 10000):
    labels = _sample(logits, 8, tail_samples, count)
    np.testing.assert_allclose(
        np.sum(labels.probabilities, axis=-1), 1, rtol=1e-5)
    mean = np.bincount(np.ravel(labels.indices), np.ravel(labels.probabilities),
                       minlength=40) / count
    errors.append(np.abs(mean - wanted).sum())
  # 100 times as many samples reduce the error about tenfold.
  assert errors[1] < 0.02
  assert 4 < errors[0] / errors[1] < 25


def test_a_sample_of_a_rounded_distribution_sums_to_1(monkeypatch):
  """A distribution rounded to bfloat16 does not exactly sum to 1."""
  softmax = tf.nn.softmax
  monkeypatch.setattr(tf.nn, "softmax", lambda logits: tf.cast(
      tf.cast(softmax(logits), tf.bfloat16), tf.float32))
  generator = np.random.default_rng(4)
  logits = 4 * generator.standard_normal((300, 500)).astype(np.float32)
  labels = losses.truncate(
      tf.constant(logits), 10, tail_samples=9,
      offsets=tf.constant(generator.random(300)))
  assert abs(tf.nn.softmax(logits).numpy().sum(axis=-1) - 1).max() > 1e-4
  np.testing.assert_allclose(
      np.sum(labels.probabilities, axis=-1), 1, rtol=1e-6)


def test_a_sample_varies_less_than_independent_draws():
  generator = np.random.default_rng(2)
  logits = 2 * generator.standard_normal(200).astype(np.float32)
  p = np.exp(logits) / np.exp(logits).sum()
  order = np.argsort(-p)

  def variance(tail_samples):
    labels = _sample(logits, 10, tail_samples, 4000)
    targets = np.zeros((4000, 200))
    np.put_along_axis(targets, labels.indices.numpy(),
                      labels.probabilities.numpy(), axis=-1)
    return targets.var(axis=0).sum()

  tail = p[order[5:]]
  # Each of 5 independent draws adds r / 5 with the chance p / r, r = sum p.
  independent = tail.sum() / 5 * tail.sum() - (tail ** 2).sum() / 5
  assert variance(9) < variance(5) < independent


@pytest.mark.parametrize("logits, possible", [
    ([0.0, 1.0, -200.0, 2.0, 0.0], {0, 1, 3, 4}),  # Token 2 underflows.
    ([0.0, 500.0, 0.0, 0.0, 0.0], {1}),  # The tail underflows.
])
@pytest.mark.parametrize("offset", [0.0, 1 - 2.0 ** -32])
def test_samples_of_extreme_distributions_are_valid(logits, possible, offset):
  for top_k in (3, 4, 5):
    labels = losses.truncate(
        tf.constant([logits]), top_k, tail_samples=top_k - 1,
        offsets=tf.constant([offset], tf.float64))
    probabilities = labels.probabilities.numpy()[0]
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1)
    stored = labels.indices.numpy()[0]
    assert set(stored) <= set(range(5)) and stored[0] == np.argmax(logits)
    # Only tokens stored with probability 0 may be impossible or may repeat.
    stored = stored[probabilities > 0]
    assert set(stored) <= possible
    assert len(set(stored)) == len(stored)


def test_teacher_cross_entropy_by_hand():
  labels = losses.TeacherLabels(
      tf.constant([[0.5, 0.25], [0.0, 0.0]]), tf.constant([[3, 0], [0, 0]]))
  values = losses.teacher_cross_entropies(
      tf.constant(_LOGITS[:2] + 5), labels)
  np.testing.assert_allclose(
      values, [-0.5 * np.log(0.4) - 0.25 * np.log(0.1), 0], rtol=1e-5)


def test_with_all_tokens_stored_the_loss_is_the_full_cross_entropy():
  generator = np.random.default_rng(0)
  teacher, student = generator.normal(size=(2, 50, 29)).astype(np.float32)
  labels = losses.truncate(tf.constant(teacher), 29)
  full = tf.nn.softmax_cross_entropy_with_logits(
      labels=tf.nn.softmax(teacher), logits=student)
  np.testing.assert_allclose(
      losses.teacher_cross_entropies(tf.constant(student), labels), full,
      rtol=1e-5)


def _dense_divergences(student, labels, temperature=1.0):
  """Returns the KL over stored entries and one bucket, in float64."""
  scores = np.float64(student) / temperature
  q = np.exp(scores - scores.max(axis=-1, keepdims=True))
  q /= q.sum(axis=-1, keepdims=True)
  p = np.float64(labels.probabilities)
  is_stored = np.zeros(q.shape, bool)
  np.put_along_axis(is_stored, np.asarray(labels.indices), True, axis=-1)
  stored_q = np.take_along_axis(q, np.asarray(labels.indices), axis=-1)
  values = np.sum(p * np.log(p / stored_q), axis=-1)
  if p.shape[1] < q.shape[1]:
    rest = 1 - p.sum(axis=-1)
    values += rest * np.log(rest / np.sum(q * ~is_stored, axis=-1))
  return values


def test_a_bucket_holds_the_rest_by_hand():
  # Two tokens and the rest: student 0.4, 0.1, 0.5; teacher 0.5, 0.25, 0.25.
  labels = losses.TeacherLabels(
      tf.constant([[0.5, 0.25]]), tf.constant([[3, 0]]))
  values = losses.teacher_losses(
      tf.constant(_LOGITS[:1] - 3), labels, tail_mass="bucket")
  np.testing.assert_allclose(
      values, [0.5 * np.log(0.5 / 0.4) + 0.25 * np.log(0.25 / 0.1)
               + 0.25 * np.log(0.25 / 0.5)], rtol=1e-5)


def test_renormalized_labels_sum_to_one():
  labels = losses.TeacherLabels(
      tf.constant([[0.5, 0.25], [0.0, 0.0]]), tf.constant([[3, 0], [0, 0]]))
  values = losses.teacher_losses(
      tf.constant(_LOGITS[:2]), labels, tail_mass="renormalize")
  np.testing.assert_allclose(
      values, [-2 / 3 * np.log(0.4) - 1 / 3 * np.log(0.1), 0], rtol=1e-5)


def test_a_temperature_flattens_the_student():
  # At T = 2 the student's probabilities are proportional to square roots.
  roots = np.sqrt(np.float32([0.1, 0.2, 0.3, 0.4]))
  labels = losses.TeacherLabels(
      tf.constant([[0.5, 0.25]]), tf.constant([[3, 0]]))
  values = losses.teacher_losses(
      tf.constant(_LOGITS[:1]), labels, temperature=2.0)
  np.testing.assert_allclose(
      values, [-4 * (0.5 * np.log(roots[3] / roots.sum())
                     + 0.25 * np.log(roots[0] / roots.sum()))], rtol=1e-5)


def test_hard_labels_mix_into_the_labels():
  """Mixes losses and gradients of both labels in the same proportion."""
  logits = tf.Variable(np.random.default_rng(2).normal(
      size=_LOGITS.shape).astype(np.float32))
  labels = losses.truncate(tf.constant(_LOGITS), 2)
  # Stored, not stored and stored among the two most probable tokens.
  hard_labels = tf.constant([3, 1, 0])
  with tf.GradientTape(persistent=True) as tape:
    mixed = losses.teacher_cross_entropies(
        logits, losses.mix_hard_labels(labels, hard_labels, 0.3))
    wanted = (0.7 * losses.teacher_cross_entropies(logits, labels)
              + 0.3 * tf.nn.sparse_softmax_cross_entropy_with_logits(
                  labels=hard_labels, logits=logits))
  np.testing.assert_allclose(mixed, wanted, rtol=1e-6)
  np.testing.assert_allclose(tape.gradient(mixed, logits),
                             tape.gradient(wanted, logits), atol=1e-7)


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("temperature, tail_mass", [
    (1.0, "drop"), (1.0, "renormalize"), (2.0, "drop"), (1.0, "bucket")])
def test_the_loss_weighs_soft_and_hard_labels(weight, temperature, tail_mass):
  """The weight is constant, or belongs to a schedule from 0.1 to 0.5."""
  logits = tf.constant(_LOGITS[:, ::-1] * 2)
  labels = losses.truncate(tf.constant(_LOGITS), 2, temperature)
  hard_labels = tf.constant([3, 1, 0])
  hard_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=hard_labels, logits=logits)
  wanted = (1 - weight) * losses.teacher_losses(
      logits, labels, temperature, tail_mass) + weight * hard_losses
  constant = losses.LossOptions(
      weight, temperature=temperature, tail_mass=tail_mass)
  linear = dataclasses.replace(
      constant, hard_label_weight=0.1, hard_label_schedule="linear",
      final_hard_label_weight=0.5)
  cases = [(constant, 0.7)]
  if 0.1 <= weight <= 0.5:
    cases.append((linear, (weight - 0.1) / 0.4))
  for options, progress in cases:
    np.testing.assert_allclose(
        losses.masked_lm_losses(
            options, tf.constant(progress, tf.float32), logits, hard_labels,
            hard_losses, labels if options.reads_teacher else None),
        wanted, rtol=1e-6)


@pytest.mark.parametrize("arguments, weights, reads_teacher", [
    ((0.25,), (0.25, 0.25), True), ((1.0,), (1, 1), False),
    ((0.0, "linear"), (0, 1), True), ((1.0, "linear"), (1, 1), False),
    ((0.75, "linear", 0.0), (0.75, 0), True),
    ((1.0, "linear", 0.5), (1, 0.5), True)])
def test_weights_of_the_hard_labels(arguments, weights, reads_teacher):
  options = losses.LossOptions(*arguments)
  assert options.hard_label_weights == weights
  assert options.reads_teacher == reads_teacher


@pytest.mark.parametrize("top_k", [1, 10, 28, 29])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_bucket_loss_is_the_dense_divergence(top_k, temperature):
  teacher, student = np.random.default_rng(1).normal(
      scale=1.5, size=(2, 200, 29)).astype(np.float32)
  labels = losses.truncate(tf.constant(teacher), top_k)
  values = losses.teacher_losses(
      tf.constant(student), labels, temperature, "bucket")
  wanted = _dense_divergences(student, labels, temperature)
  np.testing.assert_allclose(
      values / temperature ** 2, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tail_mass", losses.TAIL_MASSES)
@pytest.mark.parametrize("top_k", [1, 7, 29])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_equal_those_of_the_formulas(tail_mass, top_k, temperature):
  generator = np.random.default_rng(2)
  teacher, student = generator.normal(size=(2, 40, 29))
  labels = losses.truncate(tf.constant(teacher, tf.float32), top_k)
  upstream = generator.normal(size=40)
  logits = tf.constant(student, tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(logits)
    values = losses.teacher_losses(
        logits, labels, temperature, tail_mass)
  gradient = tape.gradient(values, logits, tf.constant(upstream, tf.float32))
  plain = tf.constant(student)
  with tf.GradientTape() as tape:
    tape.watch(plain)
    q = tf.gather(tf.nn.softmax(plain / temperature), labels.indices,
                  batch_dims=1)
    p = tf.cast(labels.probabilities, tf.float64)
    mass = tf.reduce_sum(p, axis=-1)
    if tail_mass == "renormalize":
      p /= mass[:, tf.newaxis]
    formula_losses = -tf.reduce_sum(p * tf.math.log(q), axis=-1)
    if tail_mass == "bucket" and top_k < 29:
      formula_losses -= (1 - mass) * tf.math.log(1 - tf.reduce_sum(q, axis=-1))
    formula_losses *= temperature ** 2
  np.testing.assert_allclose(
      gradient, tape.gradient(formula_losses, plain, tf.constant(upstream)),
      atol=2e-6)


def _extreme_cases(generator, num_slots, vocab_size, top_k):
  """Returns logits and labels with extreme values of float32."""
  scales = 10.0 ** generator.choice([-30, -3, 0, 1, 2, 4, 30],
                                    size=(num_slots, 1))
  logits = generator.normal(size=(num_slots, vocab_size)) * scales
  indices = np.argsort(generator.random(logits.shape), axis=-1)[:, :top_k]
  # The stored tokens get all of the student's mass in a third of the cases, and
  # none of it in another third.
  shift = generator.choice([0, 0, 90, 1e4, -90, -1e4], size=(num_slots, 1))
  np.put_along_axis(
      logits, indices,
      np.take_along_axis(logits, indices, axis=-1) + shift, axis=-1)
  entries = generator.dirichlet(
      np.full(top_k + 1, 0.2), size=num_slots).astype(np.float32)[:, :top_k]
  kind = generator.integers(0, 4, size=num_slots)
  mass = np.maximum(entries.sum(axis=-1, keepdims=True), 1e-30)
  entries = np.where(kind[:, None] == 1, entries / mass, entries)
  entries = np.where(kind[:, None] == 2, entries * 1e-38, entries)
  entries[kind == 3] = np.eye(top_k, dtype=np.float32)[0]
  return (np.float32(logits), losses.TeacherLabels(
      tf.constant(np.float32(entries)), tf.constant(np.int32(indices))))


@pytest.mark.parametrize("vocab_size, top_k, num_slots", [
    (16, 4, 600000), (5, 4, 200000), (4, 4, 200000)])
def test_gradients_of_extreme_values_are_finite(
    vocab_size, top_k, num_slots):
  """Tries a million cases for each loss, over all parameters."""
  logits, labels = _extreme_cases(
      np.random.default_rng(6), num_slots, vocab_size, top_k)
  logits = tf.constant(logits)
  for tail_mass in losses.TAIL_MASSES:
    with tf.GradientTape() as tape:
      tape.watch(logits)
      values = losses.teacher_losses(logits, labels, 1.0, tail_mass)
    gradient = tape.gradient(values, logits)
    assert bool(tf.reduce_all(tf.math.is_finite(values))), tail_mass
    # |q * mass - p| is at most the mass, which rounding may bring above 1.
    assert float(tf.reduce_max(tf.abs(gradient))) <= 1 + 1e-5, tail_mass
    assert bool(tf.reduce_all(tf.math.is_finite(gradient))), tail_mass
    # With all tokens stored there is no rest: entries that sum to less than 1
    # may have a negative divergence.
    if tail_mass == "bucket" and top_k < vocab_size:
      assert float(tf.reduce_min(values)) > -1e-5


def test_the_students_rest_keeps_its_precision():
  # Outside the stored token the student has 3 exp(-40); 1 - q would round to 0.
  labels = losses.TeacherLabels(
      tf.constant([[0.75]]), tf.constant([[1]]))
  loss = losses.divergences_from_teacher(
      tf.constant([[0.0, 40.0, 0.0, 0.0]]), labels)
  assert float(loss[0]) == pytest.approx(
      0.75 * np.log(0.75) + 0.25 * (np.log(0.25) - np.log(3) + 40), rel=1e-6)


@pytest.mark.parametrize("tail_mass", losses.TAIL_MASSES)
def test_the_loss_makes_one_tensor_of_the_size_of_the_logits(tail_mass):
  """The forward pass computes the gradient in place, in that tensor."""
  with tf.Graph().as_default() as graph:
    logits = tf.compat.v1.placeholder(tf.float32, [40, 29])
    labels = losses.TeacherLabels(
        tf.ones([40, 3]) / 4, tf.ones([40, 3], tf.int32))
    losses.teacher_losses(logits, labels, 1.0, tail_mass)
    dense = [operation.type for operation in graph.get_operations()
             for output in operation.outputs if output.shape == [40, 29]]
  kernels = [kind for kind in dense if kind not in (
      "Placeholder", "Identity", "IdentityN", "TensorScatterUpdate")]
  assert kernels == ["SparseSoftmaxCrossEntropyWithLogits"]
