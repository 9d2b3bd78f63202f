"""BERT's optimizer: learning-rate schedule, clipping, AdamW, loss scaling.

Slots have the names of Google's checkpoints: NAME/adam_m and NAME/adam_v.
`create_optimizer` and the optimizer have BERT's names and signatures. Callers
distribute training over processes with `wrap_optimizer`.
"""

import re
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Union

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

_WEIGHT_DECAY = 0.01
# Regular expressions for the names of variables without weight decay.
_NO_DECAY = ["LayerNorm", "layer_norm", "bias"]
_CLIP_NORM = 1.0
# Dynamic loss scaling (Micikevicius et al. 2017, arXiv 1710.03740): the first
# scale, and the number of finite steps after which the scale doubles.
_FIRST_LOSS_SCALE = 2.0 ** 15
_FINITE_STEPS = 2000
# Variables of `LossScale`: the scale, the finite steps since its last change,
# and all steps that were skipped.
LOSS_SCALE_VARIABLES = ("loss_scale", "loss_scale_finite_steps",
                        "loss_scale_skipped_steps")


def learning_rate_at(step: tf.Tensor, learning_rate: float,
                     num_train_steps: int, num_warmup_steps: int) -> tf.Tensor:
  """Returns the learning rate: linear warm-up, then linear decay to 0.

  Args:
    step: s, int64 or float32, a scalar: the number of steps done.
    learning_rate: the rate that the schedule scales.
    num_train_steps: N, the step at which the rate is 0.
    num_warmup_steps: W; the rate is `learning_rate * s / W` while s < W, then
      `learning_rate * (1 - s / N)`.

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
    is_finite: bool, a scalar: False if gradients are NaN or infinite and a
      smaller loss scale cannot help. A step with such gradients changes only
      the global step and the loss scale.
    loss_scale: float32, a scalar; None without loss scaling.
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
    use_tpu: whether to average the gradients over the cores of a TPU.

  Returns:
    The operation, which also adds 1 to the global step.
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
    wrap_optimizer: takes the optimizer and returns an optimizer whose
      `compute_gradients` averages over all processes.
    accumulated_gradients: sums over the batch's other micro-batches, as
      returned by `accumulate_gradients`; averaged over processes only once.
    loss_scale: multiplies the loss; None means no loss scaling. The schedule
      does not count steps that overflow.
    schedule_offset: number of steps, perhaps fractional, by which the schedule
      is ahead of the global step; negative if behind.

  Returns:
    The step.

  Raises:
    ValueError: if no trainable variable has a gradient.
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
  # Clipping follows the averaging, so that all processes clip by the same
  # factor and agree whether gradients are finite.
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
  # A later run may train variables that this loss leaves out: checkpoints have
  # the slots of all variables.
  adam.create_slots(tf1.trainable_variables())
  applied = optimizer.apply_gradients(
      [(_scale(gradient, factor), variable) for gradient, variable in computed])
  with tf.control_dependencies([applied, *updates]):
    counted = global_step.assign_add(1, read_value=False)
  return TrainStep(counted, rate, norm, can_continue,
                   loss_scale.value if loss_scale else None)


class CrossReplicaOptimizer(tf1.tpu.CrossShardOptimizer):
  """Averages gradients over a TPU's cores before clipping.

  The base class averages in `apply_gradients`, after clipping: each core would
  clip by its own factor, and decide alone whether gradients are finite.
  """

  def compute_gradients(self, loss, var_list=None, **kwargs):
    """Returns gradients averaged over all cores, with their variables."""
    # The base class has divided the loss by the number of cores.
    return [(None if gradient is None else tf1.tpu.cross_replica_sum(gradient),
             variable) for gradient, variable in super().compute_gradients(
                 loss, var_list, **kwargs)]

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    """Applies averaged gradients without averaging again."""
    return self._opt.apply_gradients(grads_and_vars, global_step, name)


def _scale(gradient: Union[tf.Tensor, tf.IndexedSlices],
           factor: tf.Tensor) -> Union[tf.Tensor, tf.IndexedSlices]:
  """Multiplies a gradient; a factor of 0 gives 0 even for NaN and infinity."""
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
    loss: float32, a scalar: the loss of the micro-batch.
    accumulated_gradients: the sums so far; None for the first micro-batch.
    loss_scale: as for `create_train_step`.

  Returns:
    The sum for each trainable variable; None if the loss does not depend on
    the variable.
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
  """Adds a gradient to a sum, as dense tensors; None means no gradient."""
  if total is None or gradient is None:
    return total if gradient is None else tf.convert_to_tensor(gradient)
  return total + tf.convert_to_tensor(gradient)


class LossScale:
  """Dynamic loss scale, which keeps float16 gradients from underflowing.

  An overflow skips the step and halves the scale; 2,000 finite steps in a row
  double the scale. Checkpoints hold its variables.

  Attributes:
    value: float32, a scalar.
    num_skipped: int64, a scalar: the number of skipped steps so far.
  """

  def __init__(self):
    """Creates the variables."""
    self._scale, self._finite_steps, self._skipped_steps = (
        tf1.get_variable(name, initializer=initial, trainable=False,
                         use_resource=True)
        for name, initial in zip(LOSS_SCALE_VARIABLES, (
            _FIRST_LOSS_SCALE, 0, np.int64(0))))
    self.value = self._scale.read_value()
    self.num_skipped = self._skipped_steps.read_value()

  def update(self, is_finite: tf.Tensor) -> tf.Operation:
    """Builds the update after a step with finite gradients, or without."""
    # int32 counters live on the host: `is_finite` is copied there once.
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
  """AdamW (Loshchilov and Hutter, arXiv 1711.05101) as BERT defines it.

  There is no bias correction:

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
      epsilon: keeps the divisor above 0.
      exclude_from_weight_decay: regular expressions; a variable whose name
        contains a match does not decay.
      name: name of the operations.
      accumulated_gradients: for each trainable variable, the gradient to add to
        the computed gradient.
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
    """Makes `apply_gradients` change nothing unless a condition holds.

    Args:
      is_applied: bool, a scalar: the condition.
    """
    self._is_applied = is_applied

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    """Applies gradients; like BERT's, leaves the global step to the caller."""
    del global_step
    return super().apply_gradients(grads_and_vars, None, name)

  def compute_gradients(self, loss, *args, **kwargs):
    """Returns gradients plus accumulated gradients, with their variables."""
    computed = super().compute_gradients(loss, *args, **kwargs)
    if self._accumulated_gradients is None:
      return computed
    assert len(computed) == len(self._accumulated_gradients)
    return [(_add(total, gradient), variable)
            for (gradient, variable), total in zip(
                computed, self._accumulated_gradients)]

  def create_slots(self, variables: Sequence[tf.Variable]) -> None:
    """Creates the moments of variables that have none."""
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
      # At rate 0 and with betas of 1 the kernel changes nothing.
      self._rate_and_betas = [
          tf.where(self._is_applied, value, skipped)
          for value, skipped in zip(self._rate_and_betas, (0.0, 1.0, 1.0))]

  def _resource_apply_dense(self, grad, handle):
    return self._apply(grad, handle, tf.raw_ops.ResourceApplyAdam,
                       lambda variable: variable.handle)

  def _apply_dense(self, grad, var):
    return self._apply(grad, var, tf.raw_ops.ApplyAdam,
                       lambda variable: variable)

  # Moments decay in every row: a sparse gradient is applied as a dense one.
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
      gradient: gradient of the variable, in its shape.
      variable: the variable.
      kernel: Adam's kernel for resource variables or for reference variables.
      kernel_input: returns the kernel's input for a variable or slot.
    """
    dtype = gradient.dtype
    rate, beta_1, beta_2, epsilon, zero = (
        tf.cast(tf.convert_to_tensor(value, dtype_hint=dtype), dtype)
        for value in (*self._rate_and_betas, self.epsilon, 0.0))
    # Decay waits for the gradient, whose computation reads the variable.
    decayed = [gradient]
    if self._decays(variable.op.name):
      with tf.control_dependencies(decayed):
        decayed = [variable.assign_sub(
            rate * self.weight_decay_rate * variable, read_value=False)]
    with tf.control_dependencies(decayed):
      # Powers of beta of 0 switch off the kernel's bias correction.
      return kernel(
          var=kernel_input(variable),
          m=kernel_input(self.get_slot(variable, "m")),
          v=kernel_input(self.get_slot(variable, "v")), beta1_power=zero,
          beta2_power=zero, lr=rate, beta1=beta_1, beta2=beta_2,
          epsilon=epsilon, grad=gradient, use_locking=False)

  def _decays(self, name: str) -> bool:
    """Returns whether the variable with a name decays."""
    return bool(self.weight_decay_rate) and not any(
        re.search(pattern, name)
        for pattern in self.exclude_from_weight_decay or ())
