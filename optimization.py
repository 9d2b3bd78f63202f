"""How the student's variables move: learning rate, clipping, AdamW.

This room owns the schedule and the optimizer with its slots, whose names are
those of Google's checkpoints: NAME/adam_m and NAME/adam_v. What spreads the
work over processes comes in as `wrap_optimizer`.
"""

from typing import Callable, List, NamedTuple, Optional, Sequence

import tensorflow as tf

tf1 = tf.compat.v1

_BETA_1 = 0.9
_BETA_2 = 0.999
_EPSILON = 1e-6
_WEIGHT_DECAY = 0.01
# Parts of the names of variables that do not decay.
_NO_DECAY = ("LayerNorm", "layer_norm", "bias")
_CLIP_NORM = 1.0
# Dynamic loss scaling (Micikevicius et al. 2017, arXiv 1710.03740): where it
# starts, and how many good steps double it.
_FIRST_LOSS_SCALE = 2.0 ** 15
_GOOD_STEPS = 2000


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
    is_sound: bool, a scalar: False where the gradients were no numbers and no
      smaller loss scale can help. Such a step, and one that only lowers the
      scale, changes no variable but the global step.
  """
  operation: tf.Operation
  learning_rate: tf.Tensor
  gradient_norm: tf.Tensor
  is_sound: tf.Tensor


def create_train_step(
    loss: tf.Tensor, learning_rate: float, num_train_steps: int,
    num_warmup_steps: int,
    wrap_optimizer: Optional[Callable[[tf1.train.Optimizer],
                                      tf1.train.Optimizer]] = None,
    earlier: Optional[Sequence[tf.Tensor]] = None,
    loss_scale: Optional["LossScale"] = None
) -> TrainStep:
  """Builds one step of training.

  Args:
    loss: float32, a scalar.
    learning_rate: as for `learning_rate_at`.
    num_train_steps: as for `learning_rate_at`.
    num_warmup_steps: as for `learning_rate_at`.
    wrap_optimizer: takes the optimizer and returns one whose
      `compute_gradients` averages over all processes.
    earlier: gradients of the other parts of the batch, which `accumulate` has
      added up; the averaging takes in all at once.
    loss_scale: what the losses are multiplied by; None leaves them.

  Returns:
    The step.
  """
  global_step = tf1.train.get_or_create_global_step()
  rate = learning_rate_at(
      global_step, learning_rate, num_train_steps, num_warmup_steps)
  adam = AdamWeightDecayOptimizer(rate, earlier)
  optimizer = wrap_optimizer(adam) if wrap_optimizer else adam
  gradients, variables = zip(*optimizer.compute_gradients(
      loss * loss_scale.value if loss_scale else loss))
  # Clipping comes behind the averaging, so that all processes scale alike, and
  # find the same gradients to be no numbers.
  norm = tf.linalg.global_norm(gradients)
  if loss_scale:
    norm /= loss_scale.value
  is_finite = tf.math.is_finite(norm)
  adam.skip_unless(is_finite)
  factor = _CLIP_NORM / tf.maximum(norm, _CLIP_NORM)
  is_sound, updates = is_finite, []
  if loss_scale:
    factor /= loss_scale.value
    is_sound = tf.logical_or(is_finite, loss_scale.value > 1)
    with tf.control_dependencies([factor, is_sound]):
      updates = [loss_scale.update(is_finite)]
  factor = tf.where(is_finite, factor, 0.0)
  applied = optimizer.apply_gradients(
      [(tf.math.multiply_no_nan(gradient, factor), variable)
       for gradient, variable in zip(gradients, variables)],
      global_step=global_step)
  return TrainStep(tf.group(applied, *updates), rate, norm, is_sound)


def accumulate(loss: tf.Tensor, earlier: Optional[Sequence[tf.Tensor]],
               loss_scale: Optional["LossScale"] = None) -> List[tf.Tensor]:
  """Adds the gradients of one part of a batch to those of earlier parts.

  Args:
    loss: float32, a scalar, of the part.
    earlier: the sums so far, None for the first part.
    loss_scale: as for `create_train_step`.

  Returns:
    The sums, for each trainable variable.
  """
  if loss_scale:
    loss *= loss_scale.value
  variables = tf1.trainable_variables()
  gradients = [
      tf.zeros_like(variable) if gradient is None
      else tf.convert_to_tensor(gradient)
      for gradient, variable in zip(tf.gradients(loss, variables), variables)]
  if earlier is None:
    return gradients
  return [first + second for first, second in zip(earlier, gradients)]


class LossScale:
  """What multiplies the loss so that float16 gradients do not vanish.

  It is halved where gradients overflow and doubled after many steps without.
  It is no part of checkpoints: a run that goes on finds it again.

  Attributes:
    value: float32, a scalar.
  """

  def __init__(self):
    self._scale, self._good_steps = (
        tf1.get_variable(
            name, initializer=initial, trainable=False, use_resource=True,
            collections=[tf1.GraphKeys.LOCAL_VARIABLES])
        for name, initial in (("loss_scale", _FIRST_LOSS_SCALE),
                              ("loss_scale_good_steps", 0)))
    self.value = self._scale.read_value()

  def update(self, is_finite: tf.Tensor) -> tf.Operation:
    """Builds the change behind a step whose gradients were finite, or not."""
    good_steps = tf.where(is_finite, self._good_steps + 1, 0)
    is_doubled = good_steps >= _GOOD_STEPS
    factor = tf.where(is_finite, tf.where(is_doubled, 2.0, 1.0), 0.5)
    return tf.group(
        self._scale.assign(tf.maximum(1.0, self.value * factor)),
        self._good_steps.assign(tf.where(is_doubled, 0, good_steps)))


class StopAtNonFiniteHook(tf1.train.SessionRunHook):
  """Stops training behind a step whose gradients are no numbers.

  It raises the error that the estimator raises where the loss is none.
  """

  def __init__(self, is_sound: tf.Tensor):
    self._is_sound = is_sound

  def before_run(self, run_context):
    return tf1.train.SessionRunArgs(self._is_sound)

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

  def __init__(self, learning_rate: tf.Tensor,
               earlier: Optional[Sequence[tf.Tensor]] = None):
    """Prepares one step.

    Args:
      learning_rate: float32, a scalar.
      earlier: added to the gradients that are computed.
    """
    super().__init__(use_locking=False, name="AdamWeightDecayOptimizer")
    self._learning_rate = learning_rate
    self._earlier = earlier
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

  def compute_gradients(self, loss, *arguments, **keywords):
    computed = super().compute_gradients(loss, *arguments, **keywords)
    if self._earlier is None:
      return computed
    return [(gradient + sum_so_far, variable) for (gradient, variable),
            sum_so_far in zip(computed, self._earlier)]

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
