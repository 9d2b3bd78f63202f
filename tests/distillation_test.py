"""Tests of truncation, loss and metrics."""

import numpy as np
import pytest
import tensorflow as tf

import distillation
import records
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


def _dense_divergences(student, labels, temperature=1.0):
  """KL over stored entries and the rest as one, in float64."""
  scores = np.float64(student) / temperature
  q = np.exp(scores - scores.max(axis=-1, keepdims=True))
  q /= q.sum(axis=-1, keepdims=True)
  p = np.float64(labels.probabilities)
  is_stored = np.zeros(q.shape, bool)
  np.put_along_axis(is_stored, np.asarray(labels.indices), True, axis=-1)
  stored_q = np.take_along_axis(q, np.asarray(labels.indices), axis=-1)
  losses = np.sum(p * np.log(p / stored_q), axis=-1)
  if p.shape[1] < q.shape[1]:
    rest = 1 - p.sum(axis=-1)
    losses += rest * np.log(rest / np.sum(q * ~is_stored, axis=-1))
  return losses


def test_a_bucket_holds_the_rest_by_hand():
  # The student has 0.4, 0.1 and 0.5 for the rest; the teacher 0.5, 0.25, 0.25.
  labels = distillation.TeacherLabels(
      tf.constant([[0.5, 0.25]]), tf.constant([[3, 0]]))
  losses = distillation.teacher_losses(
      tf.constant(_LOGITS[:1] - 3), labels, tail_mass="bucket")
  np.testing.assert_allclose(
      losses, [0.5 * np.log(0.5 / 0.4) + 0.25 * np.log(0.25 / 0.1)
               + 0.25 * np.log(0.25 / 0.5)], rtol=1e-5)


def test_renormalized_labels_sum_to_one():
  labels = distillation.TeacherLabels(
      tf.constant([[0.5, 0.25], [0.0, 0.0]]), tf.constant([[3, 0], [0, 0]]))
  losses = distillation.teacher_losses(
      tf.constant(_LOGITS[:2]), labels, tail_mass="renormalize")
  np.testing.assert_allclose(
      losses, [-2 / 3 * np.log(0.4) - 1 / 3 * np.log(0.1), 0], rtol=1e-5)


def test_a_temperature_flattens_the_student():
  # At T = 2 the student's probabilities go as their square roots.
  roots = np.sqrt(np.float32([0.1, 0.2, 0.3, 0.4]))
  labels = distillation.TeacherLabels(
      tf.constant([[0.5, 0.25]]), tf.constant([[3, 0]]))
  losses = distillation.teacher_losses(
      tf.constant(_LOGITS[:1]), labels, temperature=2.0)
  np.testing.assert_allclose(
      losses, [-4 * (0.5 * np.log(roots[3] / roots.sum())
                     + 0.25 * np.log(roots[0] / roots.sum()))], rtol=1e-5)


def test_masked_words_mix_into_the_labels():
  """Loss and gradient of the mixture are the mixtures of both."""
  logits = tf.Variable(np.random.default_rng(2).normal(
      size=_LOGITS.shape).astype(np.float32))
  labels = distillation.truncate(tf.constant(_LOGITS), 2)
  words = tf.constant([3, 1, 0])  # Among the two best words, and not.
  with tf.GradientTape(persistent=True) as tape:
    mixed = distillation.teacher_cross_entropies(
        logits, distillation.mix_in_words(labels, words, 0.3))
    wanted = (0.7 * distillation.teacher_cross_entropies(logits, labels)
              + 0.3 * tf.nn.sparse_softmax_cross_entropy_with_logits(
                  labels=words, logits=logits))
  np.testing.assert_allclose(mixed, wanted, rtol=1e-6)
  np.testing.assert_allclose(tape.gradient(mixed, logits),
                             tape.gradient(wanted, logits), atol=1e-7)


@pytest.mark.parametrize("top_k", [1, 10, 28, 29])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_bucket_loss_is_the_dense_divergence(top_k, temperature):
  teacher, student = np.random.default_rng(1).normal(
      scale=1.5, size=(2, 200, 29)).astype(np.float32)
  labels = distillation.truncate(tf.constant(teacher), top_k)
  losses = distillation.teacher_losses(
      tf.constant(student), labels, temperature, "bucket")
  wanted = _dense_divergences(student, labels, temperature)
  np.testing.assert_allclose(
      losses / temperature ** 2, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tail_mass", distillation.TAIL_MASSES)
@pytest.mark.parametrize("top_k", [1, 7, 29])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_equal_those_of_the_formulas(tail_mass, top_k, temperature):
  generator = np.random.default_rng(2)
  teacher, student = generator.normal(size=(2, 40, 29))
  labels = distillation.truncate(tf.constant(teacher, tf.float32), top_k)
  upstream = generator.normal(size=40)
  logits = tf.constant(student, tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(logits)
    losses = distillation.teacher_losses(
        logits, labels, temperature, tail_mass)
  gradient = tape.gradient(losses, logits, tf.constant(upstream, tf.float32))
  plain = tf.constant(student)
  with tf.GradientTape() as tape:
    tape.watch(plain)
    q = tf.gather(tf.nn.softmax(plain / temperature), labels.indices,
                  batch_dims=1)
    p = tf.cast(labels.probabilities, tf.float64)
    mass = tf.reduce_sum(p, axis=-1)
    if tail_mass == "renormalize":
      p /= mass[:, tf.newaxis]
    plain_losses = -tf.reduce_sum(p * tf.math.log(q), axis=-1)
    if tail_mass == "bucket" and top_k < 29:
      plain_losses -= (1 - mass) * tf.math.log(1 - tf.reduce_sum(q, axis=-1))
    plain_losses *= temperature ** 2
  np.testing.assert_allclose(
      gradient, tape.gradient(plain_losses, plain, tf.constant(upstream)),
      atol=2e-6)


def _extreme_cases(generator, num_slots, num_words, top_k):
  """Returns logits and labels over the extremes that float32 reaches."""
  scales = 10.0 ** generator.choice([-30, -3, 0, 1, 2, 4, 30],
                                    size=(num_slots, 1))
  logits = generator.normal(size=(num_slots, num_words)) * scales
  indices = np.argsort(generator.random(logits.shape), axis=-1)[:, :top_k]
  # The student's whole mass on the stored words, or none of it, in a third of
  # the cases each.
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
  return (np.float32(logits), distillation.TeacherLabels(
      tf.constant(np.float32(entries)), tf.constant(np.int32(indices))))


@pytest.mark.parametrize("num_words, top_k, num_slots", [
    (16, 4, 600000), (5, 4, 200000), (4, 4, 200000)])
def test_no_extreme_makes_a_gradient_that_is_not_finite(
    num_words, top_k, num_slots):
  """A million cases for each loss."""
  logits, labels = _extreme_cases(
      np.random.default_rng(6), num_slots, num_words, top_k)
  logits = tf.constant(logits)
  for tail_mass in distillation.TAIL_MASSES:
    with tf.GradientTape() as tape:
      tape.watch(logits)
      losses = distillation.teacher_losses(logits, labels, 1.0, tail_mass)
    gradient = tape.gradient(losses, logits)
    assert bool(tf.reduce_all(tf.math.is_finite(losses))), tail_mass
    # |q * mass - p| is at most the mass, which rounding takes over 1.
    assert float(tf.reduce_max(tf.abs(gradient))) <= 1 + 1e-5, tail_mass
    assert bool(tf.reduce_all(tf.math.is_finite(gradient))), tail_mass
    # With all words stored a rest, as some cases have it, is none.
    if tail_mass == "bucket" and top_k < num_words:
      assert float(tf.reduce_min(losses)) > -1e-5


def test_a_rest_of_the_student_keeps_its_digits():
  # Outside the stored word the student has 3 exp(-40): 1 less the rest is 1.
  labels = distillation.TeacherLabels(
      tf.constant([[0.75]]), tf.constant([[1]]))
  loss = distillation.divergences_from_teacher(
      tf.constant([[0.0, 40.0, 0.0, 0.0]]), labels)
  assert float(loss[0]) == pytest.approx(
      0.75 * np.log(0.75) + 0.25 * (np.log(0.25) - np.log(3) + 40), rel=1e-6)


@pytest.mark.parametrize("tail_mass", distillation.TAIL_MASSES)
def test_the_loss_makes_one_tensor_of_the_size_of_the_logits(tail_mass):
  """Forward, beyond the logits: the gradient is built in its place."""
  with tf.Graph().as_default() as graph:
    logits = tf.compat.v1.placeholder(tf.float32, [40, 29])
    labels = distillation.TeacherLabels(
        tf.ones([40, 3]) / 4, tf.ones([40, 3], tf.int32))
    distillation.teacher_losses(logits, labels, 1.0, tail_mass)
    dense = [operation.type for operation in graph.get_operations()
             for output in operation.outputs if output.shape == [40, 29]]
  kernels = [kind for kind in dense if kind not in (
      "Placeholder", "Identity", "IdentityN", "TensorScatterUpdate")]
  assert kernels == ["SparseSoftmaxCrossEntropyWithLogits"]


def test_metrics_are_averaged_over_slots_not_batches():
  tf1 = tf.compat.v1
  batches = [([1.0, 1.0], [1.0, 0.0]), ([1.0, 0.0], [0.0, 7.0])]
  with tf.Graph().as_default(), tf1.Session() as session:
    weights, values = tf1.placeholder("float32"), tf1.placeholder("float32")
    metrics = distillation.evaluation_metrics(
        masked_lm_weights=weights, masked_lm_hits=values,
        masked_lm_cross_entropies=values, masked_lm_losses=values,
        masked_lm_confidences=values / 2,
        next_sentence_hits=values, next_sentence_losses=values)
    session.run(tf1.local_variables_initializer())
    for batch in batches:
      session.run([update for _, update in metrics.values()],
                  dict(zip((weights, values), batch)))
    results = session.run({name: value for name, (value, _) in metrics.items()})
  assert results["masked_lm_accuracy"] == pytest.approx(1 / 3)
  assert results["masked_lm_loss"] == pytest.approx(1 / 3)
  assert results["next_sentence_loss"] == pytest.approx(8 / 4)
  # Of three slots one has a gap: a hit at the confidence 0.5.
  assert results["expected_calibration_error"] == pytest.approx(1 / 6)


def test_teacher_metrics_by_hand():
  # The student's words by falling probability: 3 2 1 0; 0 2 1 3.
  labels = distillation.TeacherLabels(
      tf.constant([[0.2, 0.5, 0.1], [0.5, 0.2, 0.1]]),
      tf.constant([[0, 3, 1], [1, 2, 3]]))
  logits = tf.constant(_LOGITS[:2])
  metrics = distillation.teacher_metrics(logits, labels, 1.0)
  np.testing.assert_array_equal(metrics["teacher_top1_agreement"], [1, 0])
  np.testing.assert_array_equal(metrics["teacher_topk_recall"], [0.75, 0.75])
  # With the last entry drawn the teacher's own are two.
  metrics = distillation.teacher_metrics(logits, labels, 1.0, tail_samples=1)
  np.testing.assert_array_equal(metrics["teacher_topk_recall"], [0.5, 0.5])
  np.testing.assert_allclose(
      metrics["teacher_cross_entropy"][0],
      -0.2 * np.log(0.1) - 0.5 * np.log(0.4) - 0.1 * np.log(0.2), rtol=1e-5)
  np.testing.assert_allclose(
      metrics["kl_from_teacher"][0],
      0.2 * np.log(0.2 / 0.1) + 0.5 * np.log(0.5 / 0.4)
      + 0.3 * np.log(0.3 / 0.5), rtol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_padded_slots_can_be_left_out_of_the_head(mode):
  """Loss and slots' losses are the same with static shapes."""
  tf1 = tf.compat.v1
  generator = np.random.default_rng(4)
  examples = [tiny.random_features(generator) for _ in range(6)]
  for feature in examples:
    feature[records.MASKED_LM_WEIGHTS][1:] = 0
  examples[0][records.MASKED_LM_WEIGHTS][:] = 0
  losses = []
  for static_shapes in (False, True):
    with tf.Graph().as_default(), tf1.Session() as session:
      features = {
          name: tf.constant(np.stack([feature[name] for feature in examples]))
          for name in examples[0]}
      features = {
          name: tf.cast(value, tf.float32 if value.dtype.is_floating
                        else tf.int32) for name, value in features.items()}
      spec = distillation.build_model_fn(distillation.StudentOptions(
          config=tiny.CONFIG, hard_label_weight=0.5, temperature=1.0,
          tail_mass="bucket", init_checkpoint=None, init_layers=None,
          learning_rate=0.1, num_train_steps=10, num_warmup_steps=0,
          static_shapes=static_shapes))(features, None, mode, {})
      variables = tiny.random_variables()
      session.run(tf1.global_variables_initializer())
      for variable in tf1.trainable_variables():
        variable.load(variables[variable.op.name], session)
      losses.append(session.run(spec.loss))
      if mode == "train":
        session.run(spec.train_op)
        losses[-1] = [losses[-1], session.run(tf1.trainable_variables())]
  tf.nest.map_structure(
      lambda left, right: np.testing.assert_allclose(left, right, atol=1e-5),
      *losses)
