"""How variables are trained: learning rate, clipping, AdamW, loss scale.

This module owns the schedule and the optimizer with its slots, whose names are
those of Google's checkpoints: NAME/adam_m and NAME/adam_v. It offers the names
that fine-tuning scripts for BERT import. What spreads the work over processes
comes in as `wrap_optimizer`.
"""

import re
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Union

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

_WEIGHT_DECAY = 0.01
# Parts of the names of variables that do not decay.
_NO_DECAY = ["LayerNorm", "layer_norm", "bias"]
_CLIP_NORM = 1.0
# Dynamic loss scaling (Micikevicius et al. 2017, arXiv 1710.03740): the first
# scale, and the number of finite steps that double it.
_FIRST_LOSS_SCALE = 2.0 ** 15
_FINITE_STEPS = 2000
# Its variables: the scale, the finite steps since it changed, and the steps
# that it has cost.
LOSS_SCALE_VARIABLES = ("loss_scale", "loss_scale_finite_steps",
                        "loss_scale_skipped_steps")


def learning_rate_at(step: tf.Tensor, learning_rate: float,
                     num_train_steps: int, num_warmup_steps: int) -> tf.Tensor:
  """Returns the learning rate: a linear rise, then a line that ends at 0.

  Args:
    step: int64 or float32, s, the steps done.
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
    is_finite: bool, a scalar: False where the gradients were NaN or infinite
      and no smaller loss scale can help. Such a step, and one that only lowers
      the scale, changes no variable but the global step.
    loss_scale: float32, a scalar, that of the step; None without one.
  """
  operation: tf.Operation
  learning_rate: tf.Tensor
  gradient_norm: tf.Tensor
  is_finite: tf.Tensor
  loss_scale: Optional[tf.Tensor]


def create_optimizer(loss: tf.Tensor, init_lr: float, num_train_steps: int,
                     num_warmup_steps: int, use_tpu: bool) -> tf.Operation:
  """Builds BERT's training operation.

  Args:
    loss: float32, a scalar.
    init_lr: the learning rate that the schedule scales.
    num_train_steps: as for `learning_rate_at`.
    num_warmup_steps: as for `learning_rate_at`.
    use_tpu: whether the gradients are averaged over the cores of a TPU.

  Returns:
    The operation, which adds 1 to the global step too.
  """
  return create_train_step(
      loss, init_lr, num_train_steps, num_warmup_steps,
      CrossReplicaOptimizer if use_tpu else None).operation


def create_train_step(
    loss: tf.Tensor, learning_rate: float, num_train_steps: int,
    num_warmup_steps: int,
    wrap_optimizer: Optional[Callable[[tf1.train.Optimizer],
                                      tf1.train.Optimizer]] = None,
    accumulated_gradients: Optional[
        Sequence[Optional[tf.Tensor]]] = None,
    loss_scale: Optional["LossScale"] = None, schedule_offset: float = 0.0
) -> TrainStep:
  """Builds one step of training.

  Args:
    loss: float32, a scalar.
    learning_rate: as for `learning_rate_at`.
    num_train_steps: as for `learning_rate_at`.
    num_warmup_steps: as for `learning_rate_at`.
    wrap_optimizer: takes the optimizer and returns one whose
      `compute_gradients` averages over all processes.
    accumulated_gradients: of the batch's other micro-batches, as
      `accumulate_gradients` returns them; the sum is averaged once.
    loss_scale: what the losses are multiplied by; None leaves them. The steps
      that it skips do not count in the schedule.
    schedule_offset: steps, perhaps a fraction of one, that the schedule is
      ahead of the global step; negative where it is behind.

  Returns:
    The step.

  Raises:
    ValueError: no trainable variable has a gradient.
  """
  global_step = tf1.train.get_or_create_global_step()
  steps_done = tf.convert_to_tensor(global_step)
  if loss_scale:
    steps_done -= loss_scale.num_skipped
  if schedule_offset:
    steps_done = tf.cast(steps_done, tf.float32) + schedule_offset
  rate = learning_rate_at(
      steps_done, learning_rate, num_train_steps, num_warmup_steps)
  adam = AdamWeightDecayOptimizer(
      rate, _WEIGHT_DECAY, exclude_from_weight_decay=_NO_DECAY,
      accumulated_gradients=accumulated_gradients)
  optimizer = wrap_optimizer(adam) if wrap_optimizer else adam
  computed = [
      (gradient, variable) for gradient, variable in
      optimizer.compute_gradients(loss * loss_scale.value if loss_scale
                                  else loss) if gradient is not None]
  if not computed:
    raise ValueError("the loss depends on no trainable variable")
  # Clipping follows the averaging, so that all processes scale by the same
  # factor, and find the same gradients to be NaN or infinite.
  norm = tf.linalg.global_norm([gradient for gradient, _ in computed])
  if loss_scale:
    norm /= loss_scale.value
  is_finite = tf.math.is_finite(norm)
  adam.skip_unless(is_finite)
  factor = _CLIP_NORM / tf.maximum(norm, _CLIP_NORM)
  can_continue, updates = is_finite, []
  if loss_scale:
    factor /= loss_scale.value
    can_continue = tf.logical_or(is_finite, loss_scale.value > 1)
    with tf.control_dependencies([factor, can_continue, rate]):
      updates = [loss_scale.update(is_finite)]
  factor = tf.where(is_finite, factor, 0.0)
  # Checkpoints have slots of all variables, also of those that this loss leaves
  # alone: another run may train them.
  adam.create_slots(tf1.trainable_variables())
  applied = optimizer.apply_gradients(
      [(_scale(gradient, factor), variable) for gradient, variable in computed])
  with tf.control_dependencies([applied, *updates]):
    counted = global_step.assign_add(1, read_value=False)
  return TrainStep(counted, rate, norm, can_continue,
                   loss_scale.value if loss_scale else None)


class CrossReplicaOptimizer(tf1.tpu.CrossShardOptimizer):
  """Averages gradients over a TPU's cores before they are clipped.

  The class that it extends does so when they are applied: each core would clip
  its own gradients, by a factor of its own, and find them finite or not alone.
  """

  def compute_gradients(self, loss, var_list=None, **kwargs):
    # The loss is divided by the number of cores there.
    return [(None if gradient is None else tf1.tpu.cross_replica_sum(gradient),
             variable) for gradient, variable in super().compute_gradients(
                 loss, var_list, **kwargs)]

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    return self._opt.apply_gradients(grads_and_vars, global_step, name)


def _scale(gradient: Union[tf.Tensor, tf.IndexedSlices],
           factor: tf.Tensor) -> Union[tf.Tensor, tf.IndexedSlices]:
  """Multiplies a gradient; by 0 it is 0 even where it is NaN or infinite."""
  if isinstance(gradient, tf.IndexedSlices):
    return tf.IndexedSlices(_scale(gradient.values, factor), gradient.indices,
                            gradient.dense_shape)
  return tf.math.multiply_no_nan(gradient, tf.cast(factor, gradient.dtype))


def accumulate_gradients(
    loss: tf.Tensor,
    accumulated_gradients: Optional[Sequence[Optional[tf.Tensor]]],
    loss_scale: Optional["LossScale"] = None) -> List[Optional[tf.Tensor]]:
  """Adds the gradients of one micro-batch to those of earlier ones.

  Args:
    loss: float32, a scalar, of the micro-batch.
    accumulated_gradients: the sums so far, None for the first micro-batch.
    loss_scale: as for `create_train_step`.

  Returns:
    The sums, for each trainable variable; None for one that the loss does not
    depend on.
  """
  if loss_scale:
    loss *= loss_scale.value
  variables = tf1.trainable_variables()
  gradients = tf.gradients(loss, variables)
  if accumulated_gradients is None:
    accumulated_gradients = [None] * len(variables)
  return [_add(*pair) for pair in zip(accumulated_gradients, gradients)]


def _add(total: Optional[tf.Tensor],
         gradient: Union[tf.Tensor, tf.IndexedSlices, None]
        ) -> Optional[tf.Tensor]:
  """Adds a gradient to others, densely; None stands for no gradient."""
  if total is None or gradient is None:
    return total if gradient is None else tf.convert_to_tensor(gradient)
  return total + tf.convert_to_tensor(gradient)


class LossScale:
  """What multiplies the loss so that float16 gradients do not vanish.

  It is halved where gradients overflow and doubled after many finite steps.
  Checkpoints hold its state.

  Attributes:
    value: float32, a scalar.
    num_skipped: int64, a scalar: the steps so far that changed no variable, as
      gradients overflowed.
  """

  def __init__(self):
    self._scale, self._finite_steps, self._skipped_steps = (
        tf1.get_variable(name, initializer=initial, trainable=False,
                         use_resource=True)
        for name, initial in zip(LOSS_SCALE_VARIABLES, (
            _FIRST_LOSS_SCALE, 0, np.int64(0))))
    self.value = self._scale.read_value()
    self.num_skipped = self._skipped_steps.read_value()

  def update(self, is_finite: tf.Tensor) -> tf.Operation:
    """Builds the change after a step whose gradients were finite, or not."""
    # The host counts in int32: what it needs crosses to it once.
    with tf.device("/device:CPU:0"):
      finite_steps = tf.where(
          tf.identity(is_finite), self._finite_steps + 1, 0)
      is_doubled = finite_steps >= _FINITE_STEPS
      finite_steps = tf.where(is_doubled, 0, finite_steps)
    factor = tf.where(is_finite, tf.where(is_doubled, 2.0, 1.0), 0.5)
    return tf.group(
        self._scale.assign(tf.maximum(1.0, self.value * factor)),
        self._finite_steps.assign(finite_steps),
        self._skipped_steps.assign_add(
            tf.cast(tf.logical_not(is_finite), tf.int64)))


class AdamWeightDecayOptimizer(tf1.train.Optimizer):
  """AdamW (Loshchilov and Hutter, arXiv 1711.05101) as BERT has it.

  The moments are not corrected for their start at 0:

    m = beta_1 m + (1 - beta_1) g,  v = beta_2 v + (1 - beta_2) g^2
    x = x - learning_rate * (m / (sqrt(v) + epsilon) + weight_decay_rate x)
  """

  def __init__(self, learning_rate: Union[float, tf.Tensor],
               weight_decay_rate: float = 0.0, beta_1: float = 0.9,
               beta_2: float = 0.999, epsilon: float = 1e-6,
               exclude_from_weight_decay: Optional[Sequence[str]] = None,
               name: str = "AdamWeightDecayOptimizer",
               accumulated_gradients: Optional[
                   Sequence[Optional[tf.Tensor]]] = None):
    """Prepares one step.

    Args:
      learning_rate: float32, a scalar.
      weight_decay_rate: decay of the variables.
      beta_1: decay of m.
      beta_2: decay of v.
      epsilon: keeps the divisor over 0.
      exclude_from_weight_decay: regular expressions; a variable does not decay
        where one of them is found in its name.
      name: name of the operations.
      accumulated_gradients: for each trainable variable, added to the
        gradients that are computed.
    """
    super().__init__(use_locking=False, name=name)
    self.learning_rate = learning_rate
    self.weight_decay_rate = weight_decay_rate
    self.beta_1, self.beta_2 = beta_1, beta_2
    self.epsilon = epsilon
    self.exclude_from_weight_decay = exclude_from_weight_decay
    self._accumulated_gradients = accumulated_gradients
    self._is_applied: Optional[tf.Tensor] = None

  def skip_unless(self, is_applied: tf.Tensor) -> None:
    """Makes the next gradients count only where a condition holds.

    Args:
      is_applied: bool, a scalar.
    """
    self._is_applied = is_applied

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    """As the base, but leaves the global step to the caller, as BERT's does."""
    del global_step
    return super().apply_gradients(grads_and_vars, None, name)

  def compute_gradients(self, loss, *args, **kwargs):
    computed = super().compute_gradients(loss, *args, **kwargs)
    if self._accumulated_gradients is None:
      return computed
    assert len(computed) == len(self._accumulated_gradients)
    return [(_add(total, gradient), variable)
            for (gradient, variable), total in zip(
                computed, self._accumulated_gradients)]

  def create_slots(self, variables: Sequence[tf.Variable]) -> None:
    """Makes the moments of some variables, unless there are any."""
    with tf.init_scope():
      self._create_slots(variables)

  def _create_slots(self, var_list):
    for variable in var_list:
      self._zeros_slot(variable, "m", "adam_m")
      self._zeros_slot(variable, "v", "adam_v")

  def _prepare(self):
    self._rate_and_betas: Sequence[Union[float, tf.Tensor]] = (
        self.learning_rate, self.beta_1, self.beta_2)
    if self._is_applied is not None:
      # At a rate of 0, with moments that keep all they have, the kernel leaves
      # everything as it is.
      self._rate_and_betas = [
          tf.where(self._is_applied, value, skipped)
          for value, skipped in zip(self._rate_and_betas, (0.0, 1.0, 1.0))]

  def _resource_apply_dense(self, grad, handle):
    return self._apply(grad, handle, tf.raw_ops.ResourceApplyAdam,
                       lambda variable: variable.handle)

  def _apply_dense(self, grad, var):
    return self._apply(grad, var, tf.raw_ops.ApplyAdam,
                       lambda variable: variable)

  # Moments decay in every row, so that a sparse gradient is applied densely.
  def _resource_apply_sparse_duplicate_indices(self, grad, handle, indices):
    return self._resource_apply_dense(tf.math.unsorted_segment_sum(
        grad, indices, handle.shape[0]), handle)

  def _apply_sparse_duplicate_indices(self, grad, var):
    return self._apply_dense(tf.math.unsorted_segment_sum(
        grad.values, grad.indices, var.shape[0]), var)

  def _apply(self, gradient: tf.Tensor, variable: tf.Variable,
             kernel: Callable[..., tf.Operation],
             kernel_input: Callable[[tf.Variable], Any]) -> tf.Operation:
    """Changes a variable and its slots.

    Args:
      gradient: of the variable, the same shape.
      variable: the variable.
      kernel: Adam for resource variables, or that for reference variables.
      kernel_input: returns what the kernel takes for a variable.
    """
    dtype = gradient.dtype
    rate, beta_1, beta_2, epsilon, zero = (
        tf.cast(tf.convert_to_tensor(value, dtype_hint=dtype), dtype)
        for value in (*self._rate_and_betas, self.epsilon, 0.0))
    # The variable may be read until its gradient is known.
    decayed = [gradient]
    if self._decays(variable.op.name):
      with tf.control_dependencies(decayed):
        decayed = [variable.assign_sub(
            rate * self.weight_decay_rate * variable, read_value=False)]
    with tf.control_dependencies(decayed):
      # With the powers of beta at 0 the fused kernel corrects nothing.
      return kernel(
          var=kernel_input(variable),
          m=kernel_input(self.get_slot(variable, "m")),
          v=kernel_input(self.get_slot(variable, "v")), beta1_power=zero,
          beta2_power=zero, lr=rate, beta1=beta_1, beta2=beta_2,
          epsilon=epsilon, grad=gradient, use_locking=False)

  def _decays(self, name: str) -> bool:
    """Says whether the variable of a name decays."""
    return bool(self.weight_decay_rate) and not any(
        re.search(pattern, name)
        for pattern in self.exclude_from_weight_decay or ())
