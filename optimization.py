"""How the student's variables move: learning rate, clipping, AdamW.

This room owns the schedule and the optimizer with its slots, whose names are
those of Google's checkpoints: NAME/adam_m and NAME/adam_v. What spreads the
work over processes comes in as `wrap_optimizer`.
"""

from typing import Callable, NamedTuple, Optional

import tensorflow as tf

tf1 = tf.compat.v1

_BETA_1 = 0.9
_BETA_2 = 0.999
_EPSILON = 1e-6
_WEIGHT_DECAY = 0.01
# Parts of the names of variables that do not decay.
_NO_DECAY = ("LayerNorm", "layer_norm", "bias")
_CLIP_NORM = 1.0


def learning_rate_at(step: tf.Tensor, learning_rate: float,
                     num_train_steps: int, num_warmup_steps: int) -> tf.Tensor:
  """Returns the learning rate: a linear rise, then a line that ends at 0.

  Args:
    step: int64, s, the steps done.
    learning_rate: the rate that the schedule scales.
    num_train_steps: N, where the rate reaches 0.
    num_warmup_steps: W; the rate is `learning_rate * s / W` while s < W, and
      `learning_rate * (1 - s / N)` from there on.

  Returns:
    float32, a scalar.
  """
  step = tf.cast(step, tf.float32)
  rate = learning_rate * tf.maximum(0.0, 1.0 - step / num_train_steps)
  if num_warmup_steps:
    warmup_rate = learning_rate * step / num_warmup_steps
    rate = tf.where(step < num_warmup_steps, warmup_rate, rate)
  return rate


class TrainStep(NamedTuple):
  """One step of training.

  Attributes:
    operation: changes the variables and adds 1 to the global step.
    learning_rate: float32, a scalar.
    gradient_norm: float32, a scalar, before clipping.
    is_finite: bool, a scalar: whether the gradients were numbers; else the
      step changed no variable but the global step.
  """
  operation: tf.Operation
  learning_rate: tf.Tensor
  gradient_norm: tf.Tensor
  is_finite: tf.Tensor


def create_train_step(
    loss: tf.Tensor, learning_rate: float, num_train_steps: int,
    num_warmup_steps: int,
    wrap_optimizer: Optional[Callable[[tf1.train.Optimizer],
                                      tf1.train.Optimizer]] = None
) -> TrainStep:
  """Builds one step of training.

  Args:
    loss: float32, a scalar.
    learning_rate: as for `learning_rate_at`.
    num_train_steps: as for `learning_rate_at`.
    num_warmup_steps: as for `learning_rate_at`.
    wrap_optimizer: takes the optimizer and returns one whose
      `compute_gradients` averages over all processes.

  Returns:
    The step.
  """
  global_step = tf1.train.get_or_create_global_step()
  rate = learning_rate_at(
      global_step, learning_rate, num_train_steps, num_warmup_steps)
  adam = AdamWeightDecayOptimizer(rate)
  optimizer = wrap_optimizer(adam) if wrap_optimizer else adam
  gradients, variables = zip(*optimizer.compute_gradients(loss))
  # Clipping comes behind the averaging, so that all processes scale alike, and
  # find the same gradients to be no numbers.
  norm = tf.linalg.global_norm(gradients)
  is_finite = tf.math.is_finite(norm)
  adam.skip_unless(is_finite)
  scale = tf.where(is_finite, _CLIP_NORM / tf.maximum(norm, _CLIP_NORM), 0.0)
  operation = optimizer.apply_gradients(
      [(tf.math.multiply_no_nan(gradient, scale), variable)
       for gradient, variable in zip(gradients, variables)],
      global_step=global_step)
  return TrainStep(operation, rate, norm, is_finite)


class StopAtNonFiniteHook(tf1.train.SessionRunHook):
  """Stops training behind a step whose gradients are no numbers.

  It raises the error that the estimator raises where the loss is none.
  """

  def __init__(self, is_finite: tf.Tensor):
    self._is_finite = is_finite

  def before_run(self, run_context):
    return tf1.train.SessionRunArgs(self._is_finite)

  def after_run(self, run_context, run_values):
    if not run_values.results:
      raise tf1.train.NanLossDuringTrainingError


class AdamWeightDecayOptimizer(tf1.train.Optimizer):
  """AdamW (Loshchilov and Hutter, arXiv 1711.05101) as BERT has it.

  The moments are not corrected for their start at 0:

    m = 0.9 m + 0.1 g,  v = 0.999 v + 0.001 g^2
    x = x - rate * (m / (sqrt(v) + 1e-6) + 0.01 x)

  without the last term for biases and LayerNorm.
  """

  def __init__(self, learning_rate: tf.Tensor):
    super().__init__(use_locking=False, name="AdamWeightDecayOptimizer")
    self._learning_rate = learning_rate
    self._beta_1, self._beta_2 = _BETA_1, _BETA_2

  def skip_unless(self, is_applied: tf.Tensor) -> None:
    """Makes the next gradients count only where a condition holds.

    At a rate of 0, with moments that keep all they have, the kernel leaves
    everything as it is.

    Args:
      is_applied: bool, a scalar.
    """
    self._learning_rate = tf.where(is_applied, self._learning_rate, 0.0)
    self._beta_1 = tf.where(is_applied, _BETA_1, 1.0)
    self._beta_2 = tf.where(is_applied, _BETA_2, 1.0)

  def _create_slots(self, var_list):
    for variable in var_list:
      self._zeros_slot(variable, "m", "adam_m")
      self._zeros_slot(variable, "v", "adam_v")

  def _resource_apply_dense(self, grad, handle):
    variable = handle
    decayed = []
    if not any(part in variable.op.name for part in _NO_DECAY):
      decayed.append(variable.assign_sub(
          self._learning_rate * _WEIGHT_DECAY * variable, read_value=False))
    with tf.control_dependencies(decayed):
      # With the powers of beta at 0 the fused kernel corrects nothing.
      return tf.raw_ops.ResourceApplyAdam(
          var=variable.handle,
          m=self.get_slot(variable, "m").handle,
          v=self.get_slot(variable, "v").handle,
          beta1_power=0.0, beta2_power=0.0, lr=self._learning_rate,
          beta1=self._beta_1, beta2=self._beta_2, epsilon=_EPSILON, grad=grad,
          use_locking=False)
