"""Tests of the learning rate and the optimizer."""

import contextlib
import inspect

import numpy as np
import pytest
import tensorflow as tf

import optimization

tf1 = tf.compat.v1


@pytest.mark.parametrize("step, wanted", [
    (0, 0.0), (1, 0.4), (4, 1.6), (5, 1.5), (10, 1.0), (19, 0.1), (20, 0.0),
    (25, 0.0),
])
def test_the_rate_warms_up_then_decays_linearly(step, wanted):
  rate = optimization.learning_rate_at(tf.constant(step, tf.int64), 2.0, 20, 5)
  assert float(rate) == pytest.approx(wanted, abs=1e-6)


def test_the_rate_without_warm_up_falls_from_the_start():
  rate = optimization.learning_rate_at(tf.constant(0, tf.int64), 2.0, 20, 0)
  assert float(rate) == 2.0


def _train(start, gradients, learning_rate, num_train_steps, num_warmup_steps,
           wrap_optimizer=None, has_loss_scale=False):
  """Trains on a loss with given gradients; returns all variables by name."""
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
  # Gradients (3, 4) and (0, 12) have the norm 13, so clipping divides them by
  # 13. m = 0.1 g, v = 0.001 g^2, and without bias correction
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


def test_slots_have_the_names_of_googles_bert_and_are_the_only_additions():
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
  # The learning rates are 0.5 and 0.375; the gradients are zero.
  assert result["dense/kernel"] == pytest.approx((1 - 0.005) * (1 - 0.00375))
  for name in ("dense/bias", "LayerNorm/gamma", "layer_norm/g"):
    assert result[name] == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_gradient_changes_nothing(value):
  start = {"kernel": np.float32([1.0, 2.0]), "bias": np.float32([3.0])}
  gradients = {"kernel": np.float32([[0.1, 0.2], [0.3, value], [0.5, 0.6]]),
               "bias": np.float32([[0.7], [0.8], [0.9]])}
  skipped = _train(start, {name: rows[:2] for name, rows in gradients.items()},
                   0.1, 10, 0)
  before = _train(start, {name: rows[:1] for name, rows in gradients.items()},
                  0.1, 10, 0)
  assert skipped.pop("global_step") == before.pop("global_step") + 1 == 2
  for name, wanted in before.items():
    np.testing.assert_array_equal(skipped[name], wanted, err_msg=name)
  after = _train(start, gradients, 0.1, 10, 0)
  assert np.all(after["kernel"] < before["kernel"])


def test_gradients_are_averaged_before_they_are_clipped():

  class Doubled(tf1.train.Optimizer):
    """Simulates an optimizer that sums gradients over two processes."""

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


def test_accumulated_gradients_are_applied_once():
  """A step averages, clips and applies the sum over the micro-batches."""
  with tf.Graph().as_default(), tf1.Session() as session:
    variable = tf1.get_variable("kernel", initializer=np.float32([0.0, 0.0]),
                                use_resource=True)
    tf1.get_variable("other", initializer=np.float32([0.0]), use_resource=True)
    gradients = optimization.accumulate_gradients(
        tf.reduce_sum(variable * [0.1, 0.2]), None)
    gradients = optimization.accumulate_gradients(
        tf.reduce_sum(variable * [0.1, 0.1]), gradients)
    other = tf1.trainable_variables()[1]
    step = optimization.create_train_step(
        tf.reduce_sum(variable * [0.2, 0.1]) + 0.5 * other[0], 0.1, 10, 0,
        accumulated_gradients=gradients)
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


def test_a_loss_scale_changes_no_result():
  start = {"kernel": np.float32([1.0, 2.0]), "bias": np.float32([3.0])}
  gradients = {"kernel": np.float32([[0.1, 0.2], [3.0, 4.0]]),
               "bias": np.float32([[0.7], [0.8]])}
  plain = _train(start, gradients, 0.1, 10, 0)
  scaled = _train(start, gradients, 0.1, 10, 0, has_loss_scale=True)
  assert set(scaled) - set(plain) == set(optimization.LOSS_SCALE_VARIABLES)
  for name, value in plain.items():
    np.testing.assert_allclose(scaled[name], value, rtol=1e-6, err_msg=name)


_FINITE, _OVERFLOW, _NAN = 0.001, np.inf, np.nan
# For each case: the state before (scale, finite steps, skipped steps), the
# gradient in each step, the state after, and whether training may continue. The
# initial scale is 2 ** 15.
_LOSS_SCALE_CASES = {
    "finite": ((32768, 0, 0), [_FINITE], (32768, 1, 0), True),
    "overflow": ((32768, 0, 0), [_OVERFLOW], (16384, 0, 1), True),
    "NaN": ((32768, 7, 2), [_NAN], (16384, 0, 3), True),
    "overflow of the scaled loss alone": (
        (2.0 ** 127, 5, 0), [4.0], (2.0 ** 126, 0, 1), True),
    "finite again": ((32768, 9, 0), [_OVERFLOW, _FINITE], (16384, 1, 1), True),
    "twice": ((32768, 9, 0), [_OVERFLOW] * 2, (8192, 0, 2), True),
    "1,999 steps": ((32768, 0, 0), [_FINITE] * 1999, (32768, 1999, 0), True),
    "2,000 steps": ((32768, 0, 0), [_FINITE] * 2000, (65536, 0, 0), True),
    "one more": ((32768, 1999, 4), [_FINITE] * 2, (65536, 1, 4), True),
    "the last one": ((32768, 1999, 0), [_OVERFLOW], (16384, 0, 1), True),
    "4,000 steps": ((1, 0, 0), [_FINITE] * 4000, (4, 0, 0), True),
    "down to 1": ((2, 3, 0), [_OVERFLOW], (1, 0, 1), True),
    "at 1": ((1, 3, 0), [_OVERFLOW], (1, 0, 1), False),
    "at 1 but finite": ((1, 3, 1), [_FINITE], (1, 4, 1), True),
}


@pytest.fixture(name="scaled_step", scope="module")
def _scaled_step():
  """Yields the initial state and a function that runs a case."""
  with tf.Graph().as_default() as graph:
    variable = tf1.get_variable("kernel", initializer=np.float32([0.5]),
                                use_resource=True)
    slope = tf1.placeholder(tf.float32, [])
    # 10,000 of the 20,000 steps are warm-up.
    step = optimization.create_train_step(
        slope * variable[0], 1.0, 20000, 10000,
        loss_scale=optimization.LossScale())
    state = [tensor for tensor in tf1.global_variables()
             if tensor.op.name in optimization.LOSS_SCALE_VARIABLES]
    initialize = tf1.global_variables_initializer()

  # Other tests may run between two cases, so no graph stays the default.
  with contextlib.closing(tf1.Session(graph=graph)) as session:
    session.run(initialize)
    first = session.run(state)

    def run(before, slopes):
      session.run(initialize)
      with graph.as_default():
        for tensor, value in zip(state, before):
          tensor.load(value, session)
      values, can_continue = [], True
      for value in slopes:
        rate, can_continue, _ = session.run(
            (step.learning_rate, step.is_finite, step.operation),
            {slope: value})
        values.append((rate, session.run(variable)[0]))
      return session.run(state), can_continue, values

    yield first, run


@pytest.mark.parametrize("case", _LOSS_SCALE_CASES)
def test_the_loss_scale_grows_shrinks_and_counts_steps(scaled_step, case):
  before, slopes, after, can_continue = _LOSS_SCALE_CASES[case]
  first, run = scaled_step
  assert first == [32768, 0, 0]
  found, found_can_continue, _ = run(before, slopes)
  assert (tuple(found), found_can_continue) == (after, can_continue)


def test_skipped_steps_do_not_count_in_the_schedule(scaled_step):
  _, run = scaled_step
  _, _, values = run((4, 0, 0), [1.0, _OVERFLOW, 1.0, _NAN, 1.0, 1.0])
  rates, kernels = zip(*values)
  # After s steps that were not skipped, the rate is s / 10,000.
  np.testing.assert_allclose(
      rates, np.float32([0, 1, 1, 2, 2, 3]) / 10000, rtol=1e-6)
  _, _, wanted = run((4, 0, 0), [1.0] * 4)
  assert [kernels[i] for i in (0, 2, 4, 5)] == [kernel for _, kernel in wanted]
  assert kernels[1] == kernels[0] and kernels[3] == kernels[2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_without_loss_scale_reports_non_finite_gradients(value):
  """The trainers stop if `is_finite` is false."""
  with tf.Graph().as_default(), tf1.Session() as session:
    variable = tf1.get_variable("kernel", initializer=np.float32([1.0]),
                                use_resource=True)
    slope = tf1.placeholder(tf.float32, [])
    step = optimization.create_train_step(slope * variable[0], 0.1, 100, 0)
    session.run(tf1.global_variables_initializer())
    told = [session.run((step.operation, step.is_finite, step.gradient_norm),
                        {slope: slope_value})[1:]
            for slope_value in (2.0, value)]
  assert told[0] == (True, 2.0)
  assert not told[1][0] and not np.isfinite(told[1][1])


# --- BERT's interface --------------------------------------------------------


_EMPTY = inspect.Parameter.empty


@pytest.mark.parametrize("function, wanted", [
    (optimization.create_optimizer, {
        "loss": _EMPTY, "init_lr": _EMPTY, "num_train_steps": _EMPTY,
        "num_warmup_steps": _EMPTY, "use_tpu": _EMPTY}),
    (optimization.AdamWeightDecayOptimizer, {
        "learning_rate": _EMPTY, "weight_decay_rate": 0.0, "beta_1": 0.9,
        "beta_2": 0.999, "epsilon": 1e-6, "exclude_from_weight_decay": None,
        "name": "AdamWeightDecayOptimizer",
        # An extension of this project.
        "accumulated_gradients": None}),
])
def test_signatures_equal_those_of_bert(function, wanted):
  parameters = inspect.signature(function).parameters
  assert {name: parameter.default
          for name, parameter in parameters.items()} == wanted
  assert list(parameters) == list(wanted)


def _values(session):
  """Returns the values of all variables by name."""
  return {variable.op.name: session.run(variable)
          for variable in tf1.global_variables()}


def _by_hand(start, gradients, rates, decay=0.0, beta_1=0.9, beta_2=0.999,
             epsilon=1e-6):
  """Returns a variable and its two moments after some steps of AdamW."""
  x, m, v = np.asarray(start, np.float64), 0.0, 0.0
  for gradient, rate in zip(gradients, rates):
    gradient = np.asarray(gradient, np.float64)
    m = beta_1 * m + (1 - beta_1) * gradient
    v = beta_2 * v + (1 - beta_2) * gradient ** 2
    x = x - rate * (m / (np.sqrt(v) + epsilon) + decay * x)
  return x, m, v


@pytest.mark.parametrize("use_resource", [False, True])
@pytest.mark.parametrize("method", ["minimize", "apply_gradients"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_optimizer_steps_equal_the_formula(use_resource, method, as_tensor):
  """Variables: dense, sparse, excluded from decay, without gradient."""
  start = {"kernel": np.float32([1.0, -2.0]),
           "table": np.float32([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
           "layer_1/bias": np.float32([3.0]), "other": np.float32([4.0])}
  with tf.Graph().as_default(), tf1.Session() as session:
    variables = {name: tf1.get_variable(name, initializer=value,
                                        use_resource=use_resource)
                 for name, value in start.items()}
    # A step looks up row 0 twice and row 1 never.
    rows = tf.gather(variables["table"], [0, 2, 0])
    loss = (tf.reduce_sum(variables["kernel"] * [0.5, -3.0])
            + tf.reduce_sum(rows * [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
            + 7.0 * variables["layer_1/bias"][0])
    step = tf1.train.get_or_create_global_step()
    optimizer = optimization.AdamWeightDecayOptimizer(
        tf.constant(0.1) if as_tensor else 0.1, 0.25, 0.8, 0.9, 1e-3,
        exclude_from_weight_decay=["^layer_[0-9]", "LayerNorm"])
    computed = optimizer.compute_gradients(loss)
    kinds = {variable.op.name: gradient for gradient, variable in computed}
    assert isinstance(kinds["table"], tf.IndexedSlices)
    assert kinds["other"] is None
    if method == "minimize":
      operation = optimizer.minimize(loss, global_step=step)
    else:
      operation = optimizer.apply_gradients(computed, global_step=step)
    session.run(tf1.global_variables_initializer())
    for _ in range(3):
      session.run(operation)
    found = _values(session)
  assert found["global_step"] == 0  # The caller counts, as in BERT.
  np.testing.assert_array_equal(found["other"], start["other"])
  assert "other/adam_m" not in found
  gradients = {"kernel": [0.5, -3.0], "table": [[6, 8], [0, 0], [3, 4]],
               "layer_1/bias": [7.0]}
  for name, gradient in gradients.items():
    decay = 0.0 if name == "layer_1/bias" else 0.25
    x, m, v = _by_hand(start[name], [gradient] * 3, [0.1] * 3, decay, 0.8, 0.9,
                       1e-3)
    np.testing.assert_allclose(found[name], x, rtol=1e-5)
    np.testing.assert_allclose(found[name + "/adam_m"], m, rtol=1e-5)
    np.testing.assert_allclose(found[name + "/adam_v"], v, rtol=1e-5)


def test_the_optimizer_does_not_decay_by_default():
  with tf.Graph().as_default(), tf1.Session() as session:
    variable = tf1.get_variable("kernel", initializer=np.float64([2.0]),
                                use_resource=True)
    operation = optimization.AdamWeightDecayOptimizer(0.5).apply_gradients(
        [(tf.constant([0.25], tf.float64), variable)])
    session.run(tf1.global_variables_initializer())
    session.run(operation)
    found = _values(session)
  x, m, v = _by_hand([2.0], [[0.25]], [0.5])
  assert set(found) == {"kernel", "kernel/adam_m", "kernel/adam_v"}
  np.testing.assert_allclose(found["kernel"], x, rtol=1e-12)
  np.testing.assert_allclose(found["kernel/adam_m"], m, rtol=1e-12)
  np.testing.assert_allclose(found["kernel/adam_v"], v, rtol=1e-12)


def test_gradients_are_of_the_variables_before_the_step():
  """Weight decay waits until the gradients have read the variables."""
  for use_resource in (False, True):
    with tf.Graph().as_default(), tf1.Session() as session:
      variables = [tf1.get_variable(name, initializer=np.float32([2.0]),
                                    use_resource=use_resource)
                   for name in ("first", "second")]
      operation = optimization.AdamWeightDecayOptimizer(
          1.0, 0.5).minimize(tf.reduce_sum(variables[0] * variables[1]))
      session.run(tf1.global_variables_initializer())
      session.run(operation)
      found = _values(session)
    for name in ("first", "second"):
      np.testing.assert_allclose(found[name + "/adam_m"], [0.2], rtol=1e-6)


@pytest.mark.parametrize("use_resource", [False, True])
def test_create_optimizer_trains_as_in_bert(use_resource):
  """Covers clipping, warm-up, decay, sparse gradients, unused variables."""
  start = {"kernel": np.float32([[1.0, 2.0], [3.0, 4.0]]),
           "LayerNorm/gamma": np.float32([1.0, 1.0]),
           "unused": np.float32([5.0])}
  with tf.Graph().as_default(), tf1.Session() as session:
    variables = {name: tf1.get_variable(name, initializer=value,
                                        use_resource=use_resource)
                 for name, value in start.items()}
    loss = (tf.reduce_sum(tf.gather(variables["kernel"], [1]) * [3.0, 4.0])
            + 12.0 * variables["LayerNorm/gamma"][0])
    train_op = optimization.create_optimizer(
        loss, 0.1, num_train_steps=8, num_warmup_steps=2, use_tpu=False)
    session.run(tf1.global_variables_initializer())
    for _ in range(4):
      session.run(train_op)
    found = _values(session)
  assert found["global_step"] == 4
  rates = [0.0, 0.05, 0.1 * 6 / 8, 0.1 * 5 / 8]
  for name, gradient, decay in (
      ("kernel", [[0, 0], [3 / 13, 4 / 13]], 0.01),
      ("LayerNorm/gamma", [12 / 13, 0], 0.0)):
    x, m, _ = _by_hand(start[name], [gradient] * 4, rates, decay)
    # float32's 1 - 0.999 is 0.001 to five digits.
    np.testing.assert_allclose(found[name], x, atol=2e-5)
    np.testing.assert_allclose(found[name + "/adam_m"], m, rtol=1e-5)
  np.testing.assert_array_equal(found["unused"], start["unused"])


def test_create_optimizer_averages_over_the_cores_of_a_tpu(monkeypatch):
  wrapped = []

  def wrap(optimizer):
    wrapped.append(optimizer)
    return optimizer

  monkeypatch.setattr(optimization, "CrossReplicaOptimizer", wrap)
  for use_tpu in (False, True):
    with tf.Graph().as_default():
      variable = tf1.get_variable("kernel", [2], use_resource=True)
      optimization.create_optimizer(
          tf.reduce_sum(variable), 0.1, 8, 2, use_tpu)
    assert len(wrapped) == use_tpu
  assert isinstance(wrapped[0], optimization.AdamWeightDecayOptimizer)


def test_a_loss_without_trainable_variables_is_an_error():
  with tf.Graph().as_default():
    tf1.get_variable("kernel", [2], use_resource=True)
    with pytest.raises(ValueError, match="depends on no trainable variable"):
      optimization.create_optimizer(tf.constant(1.0), 0.1, 8, 2, False)
