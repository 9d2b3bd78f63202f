"""Tests of the learning rate and the optimizer."""

import numpy as np
import pytest
import tensorflow as tf

import optimization

tf1 = tf.compat.v1


@pytest.mark.parametrize("step, wanted", [
    (0, 0.0), (1, 0.4), (4, 1.6), (5, 1.5), (10, 1.0), (19, 0.1), (20, 0.0),
    (25, 0.0),
])
def test_the_rate_rises_to_the_line_that_falls(step, wanted):
  rate = optimization.learning_rate_at(tf.constant(step, tf.int64), 2.0, 20, 5)
  assert float(rate) == pytest.approx(wanted, abs=1e-6)


def test_the_rate_without_warm_up_falls_from_the_start():
  rate = optimization.learning_rate_at(tf.constant(0, tf.int64), 2.0, 20, 0)
  assert float(rate) == 2.0


def _train(start, gradients, learning_rate, num_train_steps, num_warmup_steps,
           wrap_optimizer=None, has_loss_scale=False):
  """Trains variables on a loss whose gradients are given; returns all."""
  with tf.Graph().as_default(), tf1.Session() as session:
    variables = {name: tf1.get_variable(name, initializer=value,
                                        use_resource=True)
                 for name, value in start.items()}
    step = tf1.train.get_or_create_global_step()
    loss = tf.add_n([
        tf.reduce_sum(variables[name] * tf.gather(tf.constant(rows), step))
        for name, rows in gradients.items()])
    loss_scale = optimization.LossScale() if has_loss_scale else None
    train_step = optimization.create_train_step(
        loss, learning_rate, num_train_steps, num_warmup_steps, wrap_optimizer,
        loss_scale=loss_scale)
    session.run((tf1.global_variables_initializer(),
                 tf1.local_variables_initializer()))
    for _ in range(len(next(iter(gradients.values())))):
      session.run(train_step.operation)
    return {variable.op.name: session.run(variable)
            for variable in tf1.global_variables()}


def test_one_step_by_hand():
  # Gradients (3, 4) and (0, 12) have the norm 13, so they are clipped to
  # g / 13; m = 0.1 g, v = 0.001 g^2, and without a correction of the moments
  # m / (sqrt(v) + 1e-6) is about 3.16 times the sign of g.
  start = {"kernel": np.float32([1.0, -2.0]), "bias": np.float32([1.0, 5.0])}
  gradients = {"kernel": np.float32([[3.0, 4.0]]),
               "bias": np.float32([[0.0, 12.0]])}
  result = _train(start, gradients, 0.1, 10, 0)
  clipped = np.array([3.0, 4.0]) / 13
  slope = 0.1 * clipped / (np.sqrt(0.001) * clipped + 1e-6)
  # float32's 1 - 0.999 is 0.001 to five digits.
  np.testing.assert_allclose(result["kernel"], [
      1.0 - 0.1 * (slope[0] + 0.01), -2.0 - 0.1 * (slope[1] - 0.02)], rtol=1e-5)
  bias_slope = 0.1 * (12 / 13) / (np.sqrt(0.001) * 12 / 13 + 1e-6)
  np.testing.assert_allclose(
      result["bias"], [1.0, 5.0 - 0.1 * bias_slope], rtol=1e-5)
  np.testing.assert_allclose(result["kernel/adam_m"], 0.1 * clipped, rtol=1e-5)
  np.testing.assert_allclose(
      result["bias/adam_v"], [0, 0.001 * (12 / 13) ** 2], rtol=2e-5)
  assert result["global_step"] == 1


def test_slots_have_the_names_of_google_and_nothing_else_is_saved():
  start = {"bert/dense/kernel": np.ones(3, "f"),
           "bert/LayerNorm/beta": np.ones(3, "f")}
  gradients = {name: np.zeros((1, 3), "f") for name in start}
  result = _train(start, gradients, 0.1, 10, 0)
  assert set(result) == {
      "global_step",
      "bert/dense/kernel", "bert/dense/kernel/adam_m",
      "bert/dense/kernel/adam_v", "bert/LayerNorm/beta",
      "bert/LayerNorm/beta/adam_m", "bert/LayerNorm/beta/adam_v"}


def test_weights_decay_but_biases_and_norms_do_not():
  start = {"dense/kernel": np.ones(1, "f"), "dense/bias": np.ones(1, "f"),
           "LayerNorm/gamma": np.ones(1, "f"), "layer_norm/g": np.ones(1, "f")}
  gradients = {name: np.zeros((2, 1), "f") for name in start}
  result = _train(start, gradients, 0.5, 4, 0)
  # Rates 0.5 and 0.375, without any gradient.
  assert result["dense/kernel"] == pytest.approx((1 - 0.005) * (1 - 0.00375))
  for name in ("dense/bias", "LayerNorm/gamma", "layer_norm/g"):
    assert result[name] == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_changes_nothing(value):
  start = {"kernel": np.float32([1.0, 2.0]), "bias": np.float32([3.0])}
  gradients = {"kernel": np.float32([[0.1, 0.2], [0.3, value], [0.5, 0.6]]),
               "bias": np.float32([[0.7], [0.8], [0.9]])}
  with_it = _train(start, {name: rows[:2] for name, rows in gradients.items()},
                   0.1, 10, 0)
  before = _train(start, {name: rows[:1] for name, rows in gradients.items()},
                  0.1, 10, 0)
  assert with_it.pop("global_step") == before.pop("global_step") + 1 == 2
  for name, wanted in before.items():
    np.testing.assert_array_equal(with_it[name], wanted, err_msg=name)
  behind = _train(start, gradients, 0.1, 10, 0)
  assert np.all(behind["kernel"] < before["kernel"])


def test_gradients_are_averaged_before_they_are_clipped():

  class Doubled(tf1.train.Optimizer):
    """Stands for an optimizer that adds up over two processes."""

    def __init__(self, inner):
      super().__init__(name="Doubled", use_locking=False)
      self._inner = inner

    def compute_gradients(self, *arguments, **keywords):
      return [(2 * gradient, variable) for gradient, variable in
              self._inner.compute_gradients(*arguments, **keywords)]

    def apply_gradients(self, *arguments, **keywords):
      return self._inner.apply_gradients(*arguments, **keywords)

  start = {"kernel": np.zeros(1, "f")}
  small = _train(start, {"kernel": np.float32([[0.25]])}, 0.1, 10, 0, Doubled)
  assert small["kernel/adam_m"] == pytest.approx(0.05)
  large = _train(start, {"kernel": np.float32([[2.0]])}, 0.1, 10, 0, Doubled)
  assert large["kernel/adam_m"] == pytest.approx(0.1)


def test_gradients_of_earlier_parts_count():
  """The parts' sum is averaged, clipped and applied once."""
  with tf.Graph().as_default(), tf1.Session() as session:
    variable = tf1.get_variable("kernel", initializer=np.float32([0.0, 0.0]),
                                use_resource=True)
    tf1.get_variable("other", initializer=np.float32([0.0]), use_resource=True)
    gradients = optimization.accumulate(
        tf.reduce_sum(variable * [0.1, 0.2]), None)
    gradients = optimization.accumulate(
        tf.reduce_sum(variable * [0.1, 0.1]), gradients)
    other = tf1.trainable_variables()[1]
    step = optimization.create_train_step(
        tf.reduce_sum(variable * [0.2, 0.1]) + 0.5 * other[0], 0.1, 10, 0,
        earlier=gradients)
    session.run(tf1.global_variables_initializer())
    session.run(step.operation)
    found = {variable.op.name: session.run(variable)
             for variable in tf1.global_variables()}
  np.testing.assert_allclose(found["kernel/adam_m"], [0.04, 0.04], rtol=1e-5)
  np.testing.assert_allclose(found["other/adam_m"], [0.05], rtol=1e-5)
  assert found["global_step"] == 1
  assert set(found) == {"global_step", "kernel", "kernel/adam_m",
                        "kernel/adam_v", "other", "other/adam_m",
                        "other/adam_v"}


def test_a_loss_scale_changes_no_number_and_is_not_saved():
  start = {"kernel": np.float32([1.0, 2.0]), "bias": np.float32([3.0])}
  gradients = {"kernel": np.float32([[0.1, 0.2], [3.0, 4.0]]),
               "bias": np.float32([[0.7], [0.8]])}
  plain = _train(start, gradients, 0.1, 10, 0)
  scaled = _train(start, gradients, 0.1, 10, 0, has_loss_scale=True)
  assert set(plain) == set(scaled)
  for name, value in plain.items():
    np.testing.assert_allclose(scaled[name], value, rtol=1e-6, err_msg=name)


def test_the_loss_scale_follows_the_gradients(monkeypatch):
  monkeypatch.setattr(optimization, "_FIRST_LOSS_SCALE", 4.0)
  monkeypatch.setattr(optimization, "_GOOD_STEPS", 2)
  found = []
  with tf.Graph().as_default(), tf1.Session() as session:
    variable = tf1.get_variable("kernel", initializer=np.float32([0.0]),
                                use_resource=True)
    slope = tf1.placeholder(tf.float32, [])
    loss_scale = optimization.LossScale()
    step = optimization.create_train_step(
        slope * variable[0], 0.1, 100, 0, loss_scale=loss_scale)
    session.run((tf1.global_variables_initializer(),
                 tf1.local_variables_initializer()))
    for value in (1.0, 1.0, 1.0, np.inf, np.inf, np.nan, np.inf, 1.0):
      _, is_sound = session.run((step.operation, step.is_sound),
                                {slope: value})
      found.append((session.run(loss_scale.value), is_sound))
  # Two good steps double it; each bad one halves it; at 1 nothing helps more.
  assert found == [(4, True), (8, True), (8, True), (4, True), (2, True),
                   (1, True), (1, False), (1, True)]
