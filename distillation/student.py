"""The student: its model_fn and metrics.

Dimensions:
  B: sequences in a batch
  N: slots for masked tokens in a batch
  V: tokens in the vocabulary
  K: teacher entries stored for each slot
  H: hidden_size of the teacher
"""

import dataclasses
import functools
from typing import (Any, Callable, Dict, List, Mapping, NamedTuple, Optional,
                    Sequence, Tuple, Union)

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.compiler.tf2xla.python import xla

from distillation import checkpoints
from distillation import hooks
from distillation import losses
from distillation import teacher_decoder
from distillation.processes import identity, Reduce
import modeling
import optimization
from records import schema

# The student's most probable tokens that are compared with the teacher's.
_TOP_TOKENS = 5
# Bins of confidence of the calibration error (Guo et al. 2017, arXiv
# 1706.04599).
_CALIBRATION_BINS = 15
# Avoids a division by zero in a batch without real predictions.
_WEIGHT_EPSILON = 1e-5
# The metric that evaluation reports as "loss"; the estimator reserves that name
# for its own mean over batches.
BATCH_LOSS = "batch_loss"
# The feature with the indices of the slots that a micro-batch keeps.
_MASKED_LM_SLOTS = "masked_lm_slots"
# The features of a slot, except its position.
_SLOT_FEATURES = (
    schema.MASKED_LM_IDS, schema.MASKED_LM_WEIGHTS, *schema.LABELS)
# The scalar outputs.
_SCALARS = ("loss", "masked_lm_loss", "next_sentence_loss",
            "hidden_cosine_loss")


@dataclasses.dataclass(frozen=True)
class StudentOptions:
  """All options of the student's model_fn.

  Attributes:
    config: the student's size.
    loss: terms of the loss, and their weights.
    init_checkpoint: checkpoint with initial values, matched by name; None
      trains from scratch.
    init_layers: as for `checkpoints.restore`.
    learning_rate: as for `optimization.create_train_step`.
    num_train_steps: as for `optimization.create_train_step`.
    num_warmup_steps: as for `optimization.create_train_step`.
    schedule_offset: as for `optimization.create_train_step`; also shifts the
      schedule of the hard labels' weight.
    wrap_optimizer: as for `optimization.create_train_step`.
    num_processes: number of processes that train together, each on its own
      batch.
    reduce_sum: returns the sum of a tensor over all processes.
    use_tpu: whether to build the graph for a TPU.
    decoder: the teacher's decoder, if the records hold hidden states.
    top_k: number of the teacher's most probable tokens to compare with in
      evaluation, if the records hold hidden states.
    tail_samples: number of sampled entries, the last of the K; evaluation
      compares the student with the other entries.
    compute_type: as for `modeling.BertModel`; float16 adds loss scaling.
    for_cpu: as for `modeling.BertModel`.
  """
  config: modeling.BertConfig
  loss: losses.LossOptions = losses.LossOptions()
  init_checkpoint: Optional[str] = None
  init_layers: Optional[Tuple[int, ...]] = None
  learning_rate: float = 5e-5
  num_train_steps: int = 100000
  num_warmup_steps: int = 10000
  schedule_offset: float = 0.0
  wrap_optimizer: Optional[Callable[[tf1.train.Optimizer],
                                    tf1.train.Optimizer]] = None
  num_processes: int = 1
  reduce_sum: Reduce = identity
  use_tpu: bool = False
  decoder: Optional[teacher_decoder.Decoder] = None
  top_k: int = 10
  tail_samples: int = 0
  compute_type: tf.DType = tf.float32
  for_cpu: bool = False


def prepare_batch(features: Mapping[str, tf.Tensor],
                  num_micro_batches: int = 1, has_padding: bool = False
                 ) -> Dict[str, Tuple[tf.Tensor, ...]]:
  """Splits a batch into micro-batches and removes padded slots.

  Runs on the host, as part of the input pipeline.

  Args:
    features: as returned by `decoding.decode`.
    num_micro_batches: number of micro-batches per step; divides B.
    has_padding: whether to keep padded slots, so that all shapes are static.

  Returns:
    By feature name, a tensor for each micro-batch. The features of a slot,
    except its position, are [N] or [N, ...], with N slots in the micro-batch.
    Without padding, an additional feature, int32 [N], holds the indices of the
    slots in the flattened positions, [B * P].
  """
  micro_batches = [dict(zip(features, tensors)) for tensors in zip(*(
      tf.split(feature, num_micro_batches) for feature in features.values()))]
  for micro_batch in micro_batches:
    slots = None
    if not has_padding:
      weights = tf.reshape(micro_batch[schema.MASKED_LM_WEIGHTS], [-1])
      slots = tf.cast(tf.where(weights > 0)[:, 0], tf.int32)
      micro_batch[_MASKED_LM_SLOTS] = slots
    for name in _SLOT_FEATURES:
      if name in micro_batch:
        values = micro_batch[name]
        values = tf.reshape(values, [-1, *values.shape[2:]])
        micro_batch[name] = (
            values if slots is None else tf.gather(values, slots))
  return {name: tuple(micro_batch[name] for micro_batch in micro_batches)
          for name in micro_batches[0]}


def build_model_fn(options: StudentOptions) -> Callable[..., Any]:
  """Builds the student's model_fn for TPUEstimator.

  Args:
    options: the model's options.

  Returns:
    A function that takes features, labels (None), mode, params and, for a loss
    scale, config, and returns a TPUEstimatorSpec for training or evaluation.
  """
  tpu = tf1.estimator.tpu

  def model_fn(features, labels, mode, params, config=None):
    assert labels is None and mode != tf.estimator.ModeKeys.PREDICT
    if mode == tf.estimator.ModeKeys.TRAIN:
      outputs, step = create_train_step(options, features)
      if step.loss_scale is not None:
        # Replaces the saver that the estimator would build.
        tf1.add_to_collection(
            tf1.GraphKeys.SAVERS,
            checkpoints.LossScaleSaver(config.keep_checkpoint_max))
      training_hooks = []
      if not options.use_tpu:  # A TPU returns only the loss.
        _summarize(options, outputs, step)
        with tf.control_dependencies([step.operation]):
          tf1.add_to_collection(
              hooks.STEP_AFTER, tf1.train.get_global_step().read_value())
        training_hooks.append(hooks.StopAtNonFiniteHook(step.is_finite))
      return tpu.TPUEstimatorSpec(
          mode=mode, loss=outputs["loss"], train_op=step.operation,
          scaffold_fn=_restore(options), training_hooks=training_hooks)
    batch, = _micro_batches(features)
    outputs = _student_outputs(options, batch, False, _BatchSize.of(features))
    metric_inputs = {name: value for name, value in outputs.items()
                     if name not in _SCALARS}
    return tpu.TPUEstimatorSpec(
        mode=mode, loss=outputs["loss"], scaffold_fn=_restore(options),
        eval_metrics=(functools.partial(
            evaluation_metrics, options.reduce_sum,
            options.loss.next_sentence_weight), metric_inputs))

  return model_fn


# --- Training ----------------------------------------------------------------


def create_train_step(
    options: StudentOptions, features: Mapping[str, Sequence[tf.Tensor]]
) -> Tuple[Dict[str, tf.Tensor], optimization.TrainStep]:
  """Builds a step over all micro-batches of a batch.

  The losses of the micro-batches sum to the loss of the batch, and so do their
  gradients. The mean of the losses of all processes is the loss of the global
  batch.

  Args:
    options: the model's options.
    features: the batch, as returned by `prepare_batch`.

  Returns:
    The loss of the global batch and its terms, by name, each a scalar; and the
    step.
  """
  num_processes, reduce_sum = options.num_processes, options.reduce_sum
  if options.use_tpu:  # The cores of a TPU take the role of processes.
    num_processes, reduce_sum = _sum_over_cores(tf.ones([])), _sum_over_cores
    tf1.add_to_collection(modeling.DROPOUT_SEEDS, xla.replica_id())
  size = _BatchSize.of(features, num_processes, reduce_sum)
  loss_scale = (optimization.LossScale()
                if options.compute_type == tf.float16 else None)
  micro_batches = _micro_batches(features)
  all_outputs: List[Dict[str, tf.Tensor]] = []
  gradients: Optional[List[Optional[tf.Tensor]]] = None
  for number, micro_batch in enumerate(micro_batches):
    # Micro-batches run one after the other and reuse memory.
    earlier = [gradient for gradient in gradients or () if gradient is not None]
    with tf.control_dependencies(earlier), tf1.variable_scope(
        tf1.get_variable_scope(), reuse=number > 0):
      outputs = _student_outputs(options, micro_batch, True, size)
      if number < len(micro_batches) - 1:
        gradients = optimization.accumulate_gradients(
            outputs["loss"], gradients, loss_scale)
    all_outputs.append(outputs)
  step = optimization.create_train_step(
      outputs["loss"], options.learning_rate, options.num_train_steps,
      options.num_warmup_steps, options.wrap_optimizer, gradients, loss_scale,
      options.schedule_offset)
  # All processes report the same loss, and stop together if it is NaN.
  means = reduce_sum(
      tf.stack([tf.add_n([outputs[name] for outputs in all_outputs])
                for name in _SCALARS]), "losses") / num_processes
  return dict(zip(_SCALARS, tf.unstack(means))), step


def _micro_batches(features: Mapping[str, Sequence[tf.Tensor]]
                  ) -> List[Dict[str, tf.Tensor]]:
  """Returns the features of each micro-batch."""
  return [dict(zip(features, tensors)) for tensors in zip(*features.values())]


def _sum_over_cores(values: tf.Tensor, name: str = "") -> tf.Tensor:
  """Returns the sum of a tensor over the cores of a TPU."""
  del name
  return tf1.tpu.cross_replica_sum(values)


def _summarize(options: StudentOptions, outputs: Mapping[str, tf.Tensor],
               step: optimization.TrainStep) -> None:
  """Adds the summaries of training for TensorBoard."""
  for name, value in (
      ("masked_lm_loss", outputs["masked_lm_loss"]),
      ("next_sentence_loss", outputs["next_sentence_loss"]),
      *([("hidden_cosine_loss", outputs["hidden_cosine_loss"])]
        if options.loss.hidden_cosine_weight else []),
      ("learning_rate", step.learning_rate),
      ("gradient_norm", step.gradient_norm),
      *([] if step.loss_scale is None else [("loss_scale", step.loss_scale)])):
    tf1.summary.scalar(name, value)


def _restore(options: StudentOptions) -> Optional[Callable[[], Any]]:
  """Initialises the variables from the initial checkpoint.

  Returns:
    A scaffold_fn that restores on the host of a TPU; None without a TPU.
  """
  checkpoint = options.init_checkpoint
  if not checkpoint:
    return None
  if not options.use_tpu:
    checkpoints.restore(checkpoint, options.init_layers)
    return None

  def scaffold_fn():
    checkpoints.restore(checkpoint, options.init_layers)
    return tf1.train.Scaffold()

  return scaffold_fn


# --- Outputs -----------------------------------------------------------------


class _BatchSize(NamedTuple):
  """Denominators of the means over a batch.

  Attributes:
    num_predictions: float32, a scalar: the number of real predictions,
      averaged over the batches of all processes.
    num_sequences: B, float32, a scalar.
  """
  num_predictions: tf.Tensor
  num_sequences: tf.Tensor

  @classmethod
  def of(cls, features: Mapping[str, Sequence[tf.Tensor]],
         num_processes: Union[int, tf.Tensor] = 1,
         reduce_sum: Reduce = identity
        ) -> "_BatchSize":
    """Counts the predictions and sequences of a batch.

    Batches differ in their number of predictions. Dividing by the mean over
    processes gives each prediction of the global batch the same weight.

    Args:
      features: the batch, as returned by `prepare_batch`.
      num_processes: as for `StudentOptions`.
      reduce_sum: as for `StudentOptions`.
    """
    num_predictions = reduce_sum(tf.add_n(
        [tf.reduce_sum(weights) for weights in features[
            schema.MASKED_LM_WEIGHTS]]), "num_predictions") + _WEIGHT_EPSILON
    input_ids = features[schema.INPUT_IDS]
    num_sequences = len(input_ids) * modeling.get_shape_list(input_ids[0])[0]
    return cls(num_predictions / num_processes,
               tf.cast(num_sequences, tf.float32))


def _student_outputs(options: StudentOptions,
                     features: Mapping[str, tf.Tensor], is_training: bool,
                     size: _BatchSize) -> Dict[str, tf.Tensor]:
  """Runs the student on a batch or micro-batch.

  Args:
    options: the model's options.
    features: the micro-batch.
    is_training: whether to apply dropout.
    size: denominators for the whole batch.

  Returns:
    By name: the loss and its terms, scalars; for masked tokens, each [N], the
    weights, whether the top token is correct (1 or 0), its probability, the
    cross entropies and the training losses; for next sentences, each [B],
    whether the prediction is correct, and the losses. In evaluation on records
    with labels, also `teacher_metrics`.
  """
  hard_labels = features[schema.MASKED_LM_IDS]
  weights = features[schema.MASKED_LM_WEIGHTS]
  labels = _teacher_labels(options, features)
  logits, next_sentence_logits, hidden_states = modeling.pretraining_logits(
      options.config, is_training, features[schema.INPUT_IDS],
      features[schema.INPUT_MASK], features[schema.SEGMENT_IDS],
      features[schema.MASKED_LM_POSITIONS],
      features.get(_MASKED_LM_SLOTS),
      compute_type=options.compute_type, for_cpu=options.for_cpu)
  hard_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=hard_labels, logits=logits)
  masked_lm_losses = losses.masked_lm_losses(
      options.loss, _progress(options), logits, hard_labels, hard_losses,
      labels)
  log_normalizers = hard_losses + tf.gather(logits, hard_labels, batch_dims=1)

  next_labels = tf.reshape(features[schema.NEXT_SENTENCE_LABELS], [-1])
  next_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=next_labels, logits=next_sentence_logits)
  masked_lm_loss = (
      tf.reduce_sum(masked_lm_losses * weights) / size.num_predictions)
  loss, hidden_cosine_loss, next_sentence_loss = (
      masked_lm_loss, tf.zeros([]), tf.zeros([]))
  if options.loss.next_sentence_weight:
    next_sentence_loss = tf.reduce_sum(next_losses) / size.num_sequences
    loss += options.loss.next_sentence_weight * next_sentence_loss
  if is_training and options.loss.hidden_cosine_weight:
    assert isinstance(labels, losses.TeacherHiddenStates)
    hidden_cosine_loss = tf.reduce_sum(weights * losses.hidden_cosine_losses(
        _project(options, hidden_states), labels.hidden_states)
                                      ) / size.num_predictions
    loss += options.loss.hidden_cosine_weight * hidden_cosine_loss
  outputs = {
      "loss": loss,
      "masked_lm_loss": masked_lm_loss,
      "next_sentence_loss": next_sentence_loss,
      "hidden_cosine_loss": hidden_cosine_loss,
      "masked_lm_weights": weights,
      "masked_lm_is_correct": _is_correct(logits, hard_labels),
      "masked_lm_confidences": tf.exp(
          tf.reduce_max(logits, axis=-1) - log_normalizers),
      "masked_lm_cross_entropies": hard_losses,
      "masked_lm_training_losses": masked_lm_losses,
      "next_sentence_is_correct": _is_correct(
          next_sentence_logits, next_labels),
      "next_sentence_losses": next_losses,
  }
  if labels and not is_training:
    if isinstance(labels, losses.TeacherHiddenStates):
      # Metrics then match those on records that store the top-k entries.
      labels = losses.truncate(
          labels.logits(), options.top_k, options.loss.temperature,
          for_cpu=options.for_cpu)
    outputs.update(teacher_metrics(
        logits, labels, options.loss.temperature, options.tail_samples))
  return outputs


def _progress(options: StudentOptions) -> tf.Tensor:
  """Returns the fraction of training that is done, float32, a scalar."""
  step = tf.cast(tf1.train.get_or_create_global_step(), tf.float32)
  if options.schedule_offset:
    step = tf.maximum(0.0, step + options.schedule_offset)
  return tf.minimum(1.0, step / options.num_train_steps)


def _teacher_labels(options: StudentOptions,
                    features: Mapping[str, tf.Tensor]
                   ) -> Optional[losses.Labels]:
  """Returns the teacher's labels of a batch; None for a batch without."""
  if schema.TEACHER_HIDDEN_STATES in features:
    assert options.decoder
    return losses.TeacherHiddenStates(
        features[schema.TEACHER_HIDDEN_STATES], *(
            _constant("teacher_decoder/" + name, value) for name, value in zip(
                options.decoder._fields, options.decoder)))
  if schema.TEACHER_INDICES not in features:
    return None
  return losses.TeacherLabels(features[schema.TEACHER_PROBABILITIES],
                              features[schema.TEACHER_INDICES])


def _constant(name: str, value: np.ndarray) -> tf.Tensor:
  """Returns a large constant that is stored on the device, not in the graph.

  The constant is a local variable: each session initialises it once, and
  checkpoints leave it out.
  """
  def initializer(shape, dtype, partition_info=None):
    del partition_info
    return tf.ensure_shape(tf.numpy_function(lambda: value, [], dtype), shape)

  variable = tf1.get_variable(
      name, value.shape, initializer=initializer, trainable=False,
      use_resource=True, collections=[tf1.GraphKeys.LOCAL_VARIABLES])
  # Stops tf.custom_gradient, which looks up variables among the global ones.
  return tf.stop_gradient(variable.read_value())


def _project(options: StudentOptions, hidden_states: tf.Tensor) -> tf.Tensor:
  """Projects the student's hidden states to the teacher's size, if asked to.

  The learned matrix is used only in training (Jiao et al. 2020, TinyBERT, arXiv
  1909.10351).

  Args:
    options: the model's options.
    hidden_states: float32 [N, the student's hidden_size].

  Returns:
    float32 [N, H]; without `hidden_projection` the hidden states themselves.
  """
  if not options.loss.hidden_projection:
    return hidden_states
  assert options.decoder
  return tf.matmul(hidden_states, tf1.get_variable(
      checkpoints.HIDDEN_PROJECTION,
      [hidden_states.shape[-1], options.decoder.hidden_size],
      initializer=modeling.create_initializer(
          options.config.initializer_range), use_resource=True))


def _is_correct(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
  """Returns 1.0 where the label has the highest of [N, V] logits, else 0.0."""
  return tf.cast(_are_equal(tf.argmax(logits, axis=-1), labels), tf.float32)


def _are_equal(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Compares integers as int64; int32 would be compared on the host."""
  return tf.equal(tf.cast(first, tf.int64), tf.cast(second, tf.int64))


# --- Metrics -----------------------------------------------------------------


def evaluation_metrics(reduce_sum: Reduce = identity,
                       next_sentence_weight: float = 1.0,
                       **outputs: tf.Tensor) -> Dict[str, Any]:
  """Averages the student's outputs over all slots and sequences.

  `masked_lm_training_loss` is the masked-LM term of the training loss, by
  default against the teacher; `masked_lm_loss` is its name of 2019.

  Args:
    reduce_sum: as for `StudentOptions`; averages are over the batches of all
      processes.
    next_sentence_weight: as for `losses.LossOptions`; 0 leaves out the
      next-sentence metrics.
    **outputs: as returned by `_student_outputs`, without the scalars.

  Returns:
    By name of the metric, a value and an update operation.
  """
  weights = outputs["masked_lm_weights"]
  num_slots = tf.reduce_sum(weights)
  num_sequences = tf.cast(tf.size(outputs["next_sentence_losses"]), tf.float32)
  # By metric, sums over batches: the numerators, then their denominator.
  sums = {name: _weighted_sum(outputs[output], weights)
          for name, output in _MASKED_LM_METRICS.items() if output in outputs}
  if next_sentence_weight:
    for name, output in (("next_sentence_accuracy", "next_sentence_is_correct"),
                         ("next_sentence_loss", "next_sentence_losses")):
      sums[name] = [tf.reduce_sum(outputs[output]), num_sequences]
  # Weighted by the number of sequences, as the last batch may be smaller.
  masked_lm_loss = tf.reduce_sum(
      outputs["masked_lm_training_losses"] * weights) / (
          num_slots + _WEIGHT_EPSILON)
  sums[BATCH_LOSS] = [
      num_sequences * masked_lm_loss + next_sentence_weight * tf.reduce_sum(
          outputs["next_sentence_losses"]), num_sequences]
  sums[_CALIBRATION_ERROR] = [
      *tf.unstack(_calibration_gaps(
          outputs["masked_lm_confidences"], outputs["masked_lm_is_correct"],
          weights)), num_slots]
  means, update = _means(sums, reduce_sum)
  metrics = {
      # The calibration error sums |accuracy - confidence| over the bins.
      name: (tf.reduce_sum(tf.abs(mean)) if name == _CALIBRATION_ERROR
             else mean[0], update)
      for name, mean in means.items()}
  for old_name, name in _OLD_METRIC_NAMES.items():
    if name in metrics:
      metrics[old_name] = metrics[name]
  return metrics


def _weighted_sum(values: tf.Tensor, weights: tf.Tensor) -> List[tf.Tensor]:
  """Returns the sum of weighted values, [N], and the sum of the weights."""
  return [tf.reduce_sum(values * weights), tf.reduce_sum(weights)]


def _means(sums: Mapping[str, Sequence[tf.Tensor]], reduce_sum: Reduce
          ) -> Tuple[Dict[str, tf.Tensor], tf.Operation]:
  """Accumulates sums over batches and processes, and divides the totals.

  Args:
    sums: by metric, the sums of a batch: numerators, then their denominator.
    reduce_sum: as for `StudentOptions`; called once for all metrics.

  Returns:
    By metric, the quotients, a float32 vector; and the operation that adds a
    batch.
  """
  batch = tf.cast(tf.stack([value for values in sums.values()
                            for value in values]), tf.float64)
  total = tf1.get_variable(
      "evaluation_sums", batch.shape, tf.float64, tf1.zeros_initializer(),
      trainable=False, use_resource=True, collections=[
          tf1.GraphKeys.LOCAL_VARIABLES, tf1.GraphKeys.METRIC_VARIABLES])
  update = total.assign_add(batch, read_value=False)
  totals = tf.split(reduce_sum(total.read_value(), "evaluation_sums"),
                    [len(values) for values in sums.values()])
  return {name: tf.cast(tf.math.divide_no_nan(values[:-1], values[-1]),
                        tf.float32)
          for name, values in zip(sums, totals)}, update


def teacher_metrics(logits: tf.Tensor, labels: losses.TeacherLabels,
                    temperature: float, tail_samples: int = 0
                   ) -> Dict[str, tf.Tensor]:
  """Compares the student with the teacher in each slot.

  Args:
    logits: float32 [N, V], the student's logits.
    labels: the teacher's entries.
    temperature: as for `losses.teacher_losses`.
    tail_samples: number of sampled entries, the last of the K.

  Returns:
    By name of the metric, float32 [N]: the cross entropy over all entries; over
    the entries that are not sampled, the divergence with the rest as one entry,
    whether teacher and student agree on the top token, and the fraction of the
    student's top tokens that the teacher's entries contain.
  """
  num_top = labels.indices.shape[-1] - tail_samples
  top = losses.TeacherLabels(labels.probabilities[:, :num_top],
                             labels.indices[:, :num_top])
  # Files of 2019 hold the entries in any order.
  best = tf.gather(
      top.indices, tf.argmax(top.probabilities, axis=-1), batch_dims=1)
  predicted = tf.math.top_k(
      logits, k=min(_TOP_TOKENS, logits.shape[-1])).indices
  is_stored = tf.reduce_any(
      _are_equal(
          predicted[:, :, tf.newaxis], top.indices[:, tf.newaxis, :]), axis=-1)
  return {
      "teacher_cross_entropy": losses.teacher_cross_entropies(
          logits, labels, temperature),
      "kl_from_teacher": losses.divergences_from_teacher(
          logits, top, temperature),
      "teacher_top1_agreement": tf.cast(
          _are_equal(predicted[:, 0], best), tf.float32),
      "teacher_topk_precision": tf.reduce_mean(
          tf.cast(is_stored, tf.float32), axis=-1),
  }


_CALIBRATION_ERROR = "expected_calibration_error"
# Metrics that are means over masked tokens, and the averaged outputs.
_MASKED_LM_METRICS = {
    "masked_lm_accuracy": "masked_lm_is_correct",
    "masked_lm_cross_entropy": "masked_lm_cross_entropies",
    "masked_lm_training_loss": "masked_lm_training_losses",
    **{name: name for name in (
        "teacher_cross_entropy", "kl_from_teacher", "teacher_top1_agreement",
        "teacher_topk_precision")}}
# masked_lm_loss is the name of 2019. teacher_topk_recall, a misnomer, stays
# until version 2.0.0 for scripts that read it.
_OLD_METRIC_NAMES = {"masked_lm_loss": "masked_lm_training_loss",
                     "teacher_topk_recall": "teacher_topk_precision"}


def _calibration_gaps(confidences: tf.Tensor, is_correct: tf.Tensor,
                      weights: tf.Tensor) -> tf.Tensor:
  """Returns the terms of the expected calibration error.

  The error is the sum over bins of |sum of (accuracy - confidence)|, divided by
  the number of slots. Bins group slots by confidence.

  Args:
    confidences: float32 [N], the probability of the most probable token.
    is_correct: float32 [N], 1 if that token is correct, else 0.
    weights: float32 [N], 1 for a real prediction and 0 for padding.

  Returns:
    float32 [bins], the sum of accuracy - confidence in each bin.
  """
  bins = tf.minimum(tf.cast(confidences * _CALIBRATION_BINS, tf.int64),
                    _CALIBRATION_BINS - 1)
  return tf.ensure_shape(
      tf.math.unsorted_segment_sum(
          (is_correct - confidences) * weights, bins, _CALIBRATION_BINS),
      [_CALIBRATION_BINS])
