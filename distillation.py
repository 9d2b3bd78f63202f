"""What is stored of the teacher, and how the student learns from it.

This room owns the two ends of one contract: the truncation of the teacher's
distribution to its K most probable words, and the loss, metrics and model_fn
of the student. It touches no files, flags and sessions.

Dimensions:
  B: sequences in a batch
  P: masked-word slots in a sequence
  N: slots in a batch, B * P
  V: words in the vocabulary
  K: teacher entries stored for each slot
"""

import dataclasses
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple

import tensorflow as tf

import modeling
import optimization
import records

tf1 = tf.compat.v1

# What to do with the teacher's probability outside the stored words.
TAIL_MASSES = ("drop", "renormalize", "bucket")
# Of the student's most probable words, how many are looked for among the
# teacher's.
_RECALLED_WORDS = 5
# Bins of confidence of the calibration error (Guo et al. 2017, arXiv
# 1706.04599).
_CALIBRATION_BINS = 15
# Keeps the mean over the real predictions of a batch defined without any.
_WEIGHT_EPSILON = 1e-5
# Words whose maximum is taken at once in the search for the best ones.
_BLOCK_WORDS = 128


class TeacherLabels(NamedTuple):
  """The teacher's most probable words.

  Attributes:
    probabilities: float32 [N, K], falling.
    indices: int32 [N, K], words of the vocabulary.
  """
  probabilities: tf.Tensor
  indices: tf.Tensor


def truncate(logits: tf.Tensor, truncation_factor: int,
             temperature: float = 1.0, draws: Optional[tf.Tensor] = None
            ) -> TeacherLabels:
  """Keeps K words of the teacher's distribution.

  Without draws these are the most probable words, with the probabilities of
  the whole distribution: they sum to less than 1. With M draws, the last M
  entries are drawn from the other words in proportion to their probability
  and share their mass, so that the cross entropy of the K entries is an
  unbiased estimate of the full one (compare Sparse Logit Sampling, arXiv
  2503.16870, which draws all entries; an exact head has less variance).

  Args:
    logits: float32 [N, V], the teacher's scores z.
    truncation_factor: K.
    temperature: T of softmax(z / T).
    draws: float32 [N, M], uniform from 0 to under 1 - 2^-24; M < K.

  Returns:
    The labels: falling probabilities, then the drawn entries.
  """
  distribution = tf.nn.softmax(logits / temperature if temperature != 1
                               else logits)
  num_draws = 0 if draws is None else draws.shape[1]
  head, head_indices = top_words(distribution, truncation_factor - num_draws)
  if not num_draws:
    return TeacherLabels(head, head_indices)
  num_slots, num_heads = tf.shape(head)[0], head.shape[1]
  places = tf.stack([tf.repeat(tf.range(num_slots), num_heads),
                     tf.reshape(head_indices, [-1])], axis=1)
  tail = tf.tensor_scatter_nd_update(
      distribution, places, tf.zeros([num_slots * num_heads]))
  cumulated = tf.cumsum(tail, axis=-1)
  # The first word whose cumulated mass is over the draw has mass itself.
  tail_indices = tf.searchsorted(
      cumulated, draws * cumulated[:, -1:], side="right")
  tail_indices = tf.minimum(tail_indices, distribution.shape[1] - 1)
  rest = tf.maximum(0.0, 1.0 - tf.reduce_sum(head, axis=-1, keepdims=True))
  return TeacherLabels(
      tf.concat([head, tf.repeat(rest / num_draws, num_draws, axis=1)], axis=1),
      tf.concat([head_indices, tail_indices], axis=1))


def top_words(distribution: tf.Tensor, top_k: int
             ) -> Tuple[tf.Tensor, tf.Tensor]:
  """Finds the k highest of V values, as `tf.math.top_k` does, but faster.

  The k highest values are in the k blocks with the highest maxima, and the
  maximum of a block is a matter of vector instructions.

  Args:
    distribution: float32 [N, V], values over -1.
    top_k: k.

  Returns:
    Values, float32 [N, k], falling, and indices, int32 [N, k].
  """
  size = distribution.shape[1]
  num_blocks = -(-size // _BLOCK_WORDS)
  if top_k > num_blocks // 2:
    return tf.math.top_k(distribution, k=top_k)
  blocks = tf.reshape(
      tf.pad(distribution, [[0, 0], [0, num_blocks * _BLOCK_WORDS - size]],
             constant_values=-1.0), [-1, num_blocks, _BLOCK_WORDS])
  _, best_blocks = tf.math.top_k(tf.reduce_max(blocks, axis=-1), k=top_k)
  best_blocks = tf.sort(best_blocks)  # Of equal values the first one counts.
  candidates = tf.reshape(tf.gather(blocks, best_blocks, batch_dims=1),
                          [-1, top_k * _BLOCK_WORDS])
  values, places = tf.math.top_k(candidates, k=top_k)
  indices = (tf.gather(best_blocks, places // _BLOCK_WORDS, batch_dims=1)
             * _BLOCK_WORDS + places % _BLOCK_WORDS)
  return values, indices


def teacher_losses(logits: tf.Tensor, labels: TeacherLabels,
                   temperature: float = 1.0,
                   tail_mass: str = "drop") -> tf.Tensor:
  """Returns what the student learns from the teacher in each slot.

  The student's scores are divided by the temperature and the loss is
  multiplied by its square, which keeps the size of the gradients (Hinton et
  al. 2015, arXiv 1503.02531).

  Args:
    logits: float32 [N, V], the student's scores.
    labels: what is stored of the teacher, at the same temperature.
    temperature: T.
    tail_mass: what to do with the teacher's probability outside the K stored
      words, one of `TAIL_MASSES`: `drop` and `renormalize` give the cross
      entropy of the stored probabilities as they are, and scaled to a sum of
      1; `bucket` gives the divergence with the rest as one more entry.

  Returns:
    float32 [N].
  """
  assert tail_mass in TAIL_MASSES, tail_mass
  if tail_mass == "bucket":
    losses = divergences_from_teacher(logits, labels, temperature)
  else:
    losses = teacher_cross_entropies(
        logits, _with_tail(labels, tail_mass), temperature)
  return losses * temperature ** 2


def _with_tail(labels: TeacherLabels, tail_mass: str) -> TeacherLabels:
  """Returns the entries that `drop` and `renormalize` train on."""
  if tail_mass == "drop":
    return labels
  return labels._replace(probabilities=tf.math.divide_no_nan(
      labels.probabilities,
      tf.reduce_sum(labels.probabilities, axis=-1, keepdims=True)))


def mix_in_words(labels: TeacherLabels, words: tf.Tensor,
                 weight: float) -> TeacherLabels:
  """Mixes the masked words into the teacher's labels.

  Cross entropy is linear in its target, so that of the mixture is the mixture
  of both cross entropies, at the cost of one.

  Args:
    labels: what is stored of the teacher.
    words: int32 [N], the masked words.
    weight: w, of the masked words; the teacher's is 1 - w.

  Returns:
    Labels of K + 1 entries; a word may be among them twice.
  """
  words = words[:, tf.newaxis]
  return TeacherLabels(
      tf.concat([(1 - weight) * labels.probabilities,
                 tf.fill(tf.shape(words), weight)], axis=1),
      tf.concat([labels.indices, words], axis=1))


def teacher_cross_entropies(logits: tf.Tensor, labels: TeacherLabels,
                            temperature: float = 1.0) -> tf.Tensor:
  """Returns the cross entropy of the stored entries, for each slot.

  It is -sum_K p_teacher * log_softmax(student / T), the probabilities as they
  are stored. Of the size of the logits it makes one tensor, which becomes the
  gradient.

  Args:
    logits: float32 [N, V], the student's scores.
    labels: what is stored of the teacher.
    temperature: T.

  Returns:
    float32 [N].
  """
  probabilities, indices = labels

  @tf.custom_gradient
  def from_logits(logits):
    scaled = _scaled(logits, temperature)
    entries = tf.gather(scaled, indices, batch_dims=1)  # [N, K]
    # The student's best entry is the label of the fused kernel: scores beside
    # it keep the digits that large ones would round away.
    best = tf.argmax(entries, axis=-1, output_type=tf.int32)  # [N]
    best_losses, slopes = _softmax(
        scaled, tf.gather(indices, best, batch_dims=1))
    log_student = (entries - tf.reduce_max(entries, axis=-1, keepdims=True)
                   - best_losses[:, tf.newaxis])
    losses = -tf.reduce_sum(
        tf.math.multiply_no_nan(log_student, probabilities), axis=-1)

    def gradient(upstream):
      mass = tf.reduce_sum(probabilities, axis=-1, keepdims=True)  # [N, 1]
      is_best = tf.one_hot(best, indices.shape[-1])  # [N, K]
      return _add_entries(slopes, mass, indices, mass * is_best - probabilities,
                          upstream / temperature)

    return losses, gradient

  return from_logits(logits)


def divergences_from_teacher(logits: tf.Tensor, labels: TeacherLabels,
                             temperature: float = 1.0) -> tf.Tensor:
  """Returns KL(teacher, student) over the stored words and the rest as one.

  With q the student's softmax(student / T), r = 1 - sum_K p and
  s = 1 - sum_K q it is sum_K p log(p / q) + r log(r / s). Where all words are
  stored there is no rest, and it is the full divergence.

  The student's rest is summed up over the words outside K instead of taken
  from 1, so that it has all its digits however small it is. The gradient is
  q_j * (sum_K p + r) - p_j for a stored word, and for another one, with
  t_j = q_j / s its share of the rest, t_j * (s * (sum_K p + r) - r): every
  factor is within [0, 1] up to rounding, whatever the logits are.

  Args:
    logits: float32 [N, V], the student's scores.
    labels: what is stored of the teacher, each word once.
    temperature: T.

  Returns:
    float32 [N].
  """
  probabilities, indices = labels
  entropies = tf.reduce_sum(
      tf.math.xlogy(probabilities, probabilities), axis=-1)
  if indices.shape[-1] == logits.shape[-1]:
    return entropies + teacher_cross_entropies(logits, labels, temperature)
  mass = tf.reduce_sum(probabilities, axis=-1)
  rest = tf.maximum(0.0, 1.0 - mass)  # r, [N]

  @tf.custom_gradient
  def from_logits(logits):
    scaled = _scaled(logits, temperature)
    entries = tf.gather(scaled, indices, batch_dims=1)  # [N, K]
    scaled = _put_entries(scaled, indices, tf.fill(
        tf.shape(indices), -float("inf")))
    best = tf.argmax(scaled, axis=-1, output_type=indices.dtype)  # [N]
    best_losses, slopes = _softmax(scaled, best)
    best_scores = tf.gather(scaled, best, batch_dims=1)
    # Scores beside 0 keep the digits that large ones would round away.
    highest = tf.maximum(best_scores, tf.reduce_max(entries, axis=-1))
    entries -= highest[:, tf.newaxis]
    log_rest = best_scores - highest + best_losses
    log_normalizers = tf.reduce_logsumexp(
        tf.concat([entries, log_rest[:, tf.newaxis]], axis=-1), axis=-1)
    log_student = entries - log_normalizers[:, tf.newaxis]
    log_student_rest = log_rest - log_normalizers
    cross_entropies = -(
        tf.reduce_sum(
            tf.math.multiply_no_nan(log_student, probabilities), axis=-1)
        + tf.math.multiply_no_nan(log_student_rest, rest))

    def gradient(upstream):
      total = mass + rest
      of_entries = (tf.exp(log_student) * total[:, tf.newaxis]
                    - probabilities)  # [N, K]
      of_rest = tf.exp(log_student_rest) * total - rest  # [N]
      of_rest = of_rest[:, tf.newaxis]
      return _add_entries(
          slopes, of_rest,
          tf.concat([indices, best[:, tf.newaxis]], axis=-1),
          tf.concat([of_entries, of_rest], axis=-1), upstream / temperature)

    return cross_entropies, gradient

  return entropies + tf.math.xlogy(rest, rest) + from_logits(logits)


def _scaled(logits: tf.Tensor, temperature: float) -> tf.Tensor:
  return logits if temperature == 1 else logits / temperature


def _softmax(logits: tf.Tensor, words: tf.Tensor):
  """Runs the fused kernel of the cross entropy, in float32.

  Args:
    logits: [N, V].
    words: int32 [N], one word for each slot.

  Returns:
    -log_softmax at the words, float32 [N], and softmax less 1 at the words,
    float32 [N, V].
  """
  return tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
      features=tf.cast(logits, tf.float32), labels=words)


def _add_entries(dense: tf.Tensor, factors: tf.Tensor, indices: tf.Tensor,
                 entries: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
  """Returns upstream * (factors * dense + entries at indices), [N, V]."""
  upstream = upstream[:, tf.newaxis]
  return tf.tensor_scatter_nd_add(
      dense * (upstream * factors), _coordinates(indices), upstream * entries)


def _put_entries(dense: tf.Tensor, indices: tf.Tensor,
                 entries: tf.Tensor) -> tf.Tensor:
  """Returns float32 [N, V] with other values at the indices [N, K]."""
  return tf.tensor_scatter_nd_update(dense, _coordinates(indices), entries)


def _coordinates(indices: tf.Tensor) -> tf.Tensor:
  """Returns slot and word of each entry, int32 [N, K, 2]."""
  slots = tf.range(tf.shape(indices)[0])[:, tf.newaxis]
  return tf.stack([tf.broadcast_to(slots, tf.shape(indices)), indices], axis=-1)


@dataclasses.dataclass(frozen=True)
class StudentOptions:
  """Everything that the student's model_fn depends on.

  Attributes:
    config: the student's size.
    hard_label_weight: w; the masked-word loss is (1 - w) times that against
      the teacher plus w times the cross entropy against the masked words. At
      1 the teacher's features are not read.
    temperature: as for `teacher_losses`.
    tail_mass: likewise.
    init_checkpoint: where variables start that it has; None starts afresh.
    init_layers: as for `modeling.restore`.
    learning_rate: as for `optimization.create_train_step`.
    num_train_steps: likewise.
    num_warmup_steps: likewise.
    wrap_optimizer: likewise.
    use_tpu: whether the graph is built for a TPU.
    tail_samples: how many of the K entries, the last ones, were drawn; in
      evaluation the student is compared with the others.
    num_parts: how many parts a batch is worked through in, one behind the
      other, before the variables move.
    static_shapes: whether padded slots go through the last layer and the
      masked-LM head too, for compilers that want shapes that do not change.
    scale_loss: whether the loss is scaled for float16.
  """
  config: modeling.BertConfig
  hard_label_weight: float
  temperature: float
  tail_mass: str
  init_checkpoint: Optional[str]
  init_layers: Optional[Tuple[int, ...]]
  learning_rate: float
  num_train_steps: int
  num_warmup_steps: int
  wrap_optimizer: Optional[Callable[[tf1.train.Optimizer],
                                    tf1.train.Optimizer]] = None
  use_tpu: bool = False
  tail_samples: int = 0
  num_parts: int = 1
  static_shapes: bool = False
  scale_loss: bool = False


def build_model_fn(options: StudentOptions) -> Callable[..., Any]:
  """Builds the student's model_fn for TPUEstimator.

  Args:
    options: what it depends on.

  Returns:
    A function of features, labels (None), mode and params that returns a
    TPUEstimatorSpec for training or evaluation.
  """
  tpu = tf1.estimator.tpu

  def model_fn(features, labels, mode, params):
    assert labels is None and mode != tf.estimator.ModeKeys.PREDICT
    if mode == tf.estimator.ModeKeys.TRAIN:
      outputs, step = _train_step(options, features)
      hooks = []
      if not options.use_tpu:  # A TPU hands out nothing but the loss.
        _summarize(outputs, step)
        hooks.append(optimization.StopAtNonFiniteHook(step.is_sound))
      return tpu.TPUEstimatorSpec(
          mode=mode, loss=outputs["loss"], train_op=step.operation,
          scaffold_fn=_restore(options), training_hooks=hooks)
    outputs = _student_outputs(
        options, features, False, _BatchSize.of(features))
    metric_inputs = {name: value for name, value in outputs.items()
                     if name not in _SCALARS}
    return tpu.TPUEstimatorSpec(
        mode=mode, loss=outputs["loss"], scaffold_fn=_restore(options),
        eval_metrics=(evaluation_metrics, metric_inputs))

  return model_fn


def _train_step(options: StudentOptions, features: Mapping[str, tf.Tensor]
               ) -> Tuple[Dict[str, tf.Tensor], optimization.TrainStep]:
  """Builds a step over all parts of a batch.

  The losses of the parts are shares of that of the batch: their sum, and that
  of their gradients, is what the batch in one piece would give.

  Returns:
    The scalars of `_student_outputs`, for the batch, and the step.
  """
  size = _BatchSize.of(features)
  loss_scale = optimization.LossScale() if options.scale_loss else None
  parts = [dict(zip(features, part)) for part in zip(*(
      tf.split(feature, options.num_parts) for feature in features.values()))]
  all_outputs, gradients = [], None
  for number, part in enumerate(parts):
    # One part behind the other: the memory that a part takes is free by then.
    with tf.control_dependencies(gradients), tf1.variable_scope(
        tf1.get_variable_scope(), reuse=number > 0):
      outputs = _student_outputs(options, part, True, size)
      if number < len(parts) - 1:
        gradients = optimization.accumulate(
            outputs["loss"], gradients, loss_scale)
    all_outputs.append(outputs)
  step = optimization.create_train_step(
      outputs["loss"], options.learning_rate, options.num_train_steps,
      options.num_warmup_steps, options.wrap_optimizer, gradients, loss_scale)
  return {name: tf.add_n([outputs[name] for outputs in all_outputs])
          for name in _SCALARS}, step


def _summarize(outputs: Mapping[str, tf.Tensor],
               step: optimization.TrainStep) -> None:
  """Draws the curves of training for TensorBoard."""
  for name, value in (
      ("masked_lm_loss", outputs["masked_lm_loss"]),
      ("next_sentence_loss", outputs["next_sentence_loss"]),
      ("learning_rate", step.learning_rate),
      ("gradient_norm", step.gradient_norm)):
    tf1.summary.scalar(name, value)


def evaluation_metrics(**outputs: tf.Tensor) -> Dict[str, Any]:
  """Averages the student's outputs over all slots and sequences.

  Args:
    **outputs: as `_student_outputs` gives them, without the scalars.

  Returns:
    A value and an update operation by name of the metric.
  """
  weights = outputs["masked_lm_weights"]
  mean = tf1.metrics.mean
  metrics = {
      "masked_lm_accuracy": mean(outputs["masked_lm_hits"], weights),
      "masked_lm_cross_entropy": mean(
          outputs["masked_lm_cross_entropies"], weights),
      "masked_lm_loss": mean(outputs["masked_lm_losses"], weights),
      "next_sentence_accuracy": mean(outputs["next_sentence_hits"]),
      "next_sentence_loss": mean(outputs["next_sentence_losses"]),
      "expected_calibration_error": _calibration_error(
          outputs["masked_lm_confidences"], outputs["masked_lm_hits"],
          weights),
  }
  for name in _TEACHER_METRICS:
    if name in outputs:
      metrics[name] = mean(outputs[name], weights)
  return metrics


def teacher_metrics(logits: tf.Tensor, labels: TeacherLabels,
                    temperature: float, tail_samples: int = 0
                   ) -> Dict[str, tf.Tensor]:
  """Compares the student with the teacher in each slot.

  Args:
    logits: float32 [N, V], the student's scores.
    labels: what is stored of the teacher.
    temperature: as for `teacher_losses`.
    tail_samples: how many of the entries, the last ones, were drawn.

  Returns:
    By name of the metric, float32 [N]: the cross entropy of all entries; and
    of those that were not drawn, the divergence with the rest as one entry,
    whether the most probable word is the student's, and the share of the
    student's most probable words that is among them.
  """
  num_top = labels.indices.shape[-1] - tail_samples
  top = TeacherLabels(labels.probabilities[:, :num_top],
                      labels.indices[:, :num_top])
  # Files of 2019 hold the entries in any order.
  best = tf.gather(
      top.indices, tf.argmax(top.probabilities, axis=-1), batch_dims=1)
  words = tf.math.top_k(
      logits, k=min(_RECALLED_WORDS, logits.shape[-1])).indices
  is_stored = tf.reduce_any(
      tf.equal(words[:, :, tf.newaxis], top.indices[:, tf.newaxis, :]), axis=-1)
  return {
      "teacher_cross_entropy": teacher_cross_entropies(
          logits, labels, temperature),
      "kl_from_teacher": divergences_from_teacher(logits, top, temperature),
      "teacher_top1_agreement": tf.cast(
          tf.equal(words[:, 0], best), tf.float32),
      "teacher_topk_recall": tf.reduce_mean(
          tf.cast(is_stored, tf.float32), axis=-1),
  }


_TEACHER_METRICS = ("teacher_cross_entropy", "kl_from_teacher",
                    "teacher_top1_agreement", "teacher_topk_recall")


def _calibration_error(confidences: tf.Tensor, hits: tf.Tensor,
                       weights: tf.Tensor):
  """Returns the expected calibration error, a value and an update operation.

  It is the mean over the slots of |accuracy - confidence|, each taken over the
  slots whose confidence falls into the same bin.

  Args:
    confidences: float32 [N], the probability of the most probable word.
    hits: float32 [N], 1 where that word is right.
    weights: float32 [N], 1 for a real prediction and 0 for padding.
  """
  bins = tf.minimum(tf.cast(confidences * _CALIBRATION_BINS, tf.int32),
                    _CALIBRATION_BINS - 1)
  gaps = tf.ensure_shape(
      tf.math.unsorted_segment_sum(
          (hits - confidences) * weights, bins, _CALIBRATION_BINS),
      [_CALIBRATION_BINS])
  num_slots = tf.reduce_sum(weights)
  mean, update = tf1.metrics.mean_tensor(
      tf.math.divide_no_nan(gaps, num_slots),
      tf.fill([_CALIBRATION_BINS], num_slots))
  return tf.reduce_sum(tf.abs(mean)), update


class _BatchSize(NamedTuple):
  """What the sums over a batch are divided by.

  Attributes:
    num_words: float32, a scalar: real predictions.
    num_sequences: B, a number where it is static.
  """
  num_words: tf.Tensor
  num_sequences: Any

  @classmethod
  def of(cls, features: Mapping[str, tf.Tensor]) -> "_BatchSize":
    """Counts a batch."""
    weights = features[records.MASKED_LM_WEIGHTS]
    return cls(tf.reduce_sum(weights) + _WEIGHT_EPSILON,
               tf.cast(tf.shape(weights)[0], tf.float32))


# The outputs that are no tensors over slots or sequences.
_SCALARS = ("loss", "masked_lm_loss", "next_sentence_loss")


def _student_outputs(options: StudentOptions,
                     features: Mapping[str, tf.Tensor], is_training: bool,
                     size: _BatchSize) -> Dict[str, tf.Tensor]:
  """Runs the student on a batch, or a part of one.

  Args:
    options: what the student depends on.
    features: the part.
    is_training: whether to apply dropout.
    size: of the whole batch.

  Returns:
    By name: the loss, a scalar, and the two losses that it is the sum of; for
    the masked words, each [N], weights, hits (1 where the best word is the
    masked one), the best word's probabilities, cross entropies and losses; for
    the next sentence, each [B], hits and losses. In evaluation, where the
    records have labels, `teacher_metrics` too.
  """
  words = tf.reshape(features[records.MASKED_LM_IDS], [-1])
  weights = tf.reshape(features[records.MASKED_LM_WEIGHTS], [-1])
  labels = _labels(features)
  is_real = None
  if not (options.static_shapes or options.use_tpu):
    is_real = features[records.MASKED_LM_WEIGHTS] > 0
    slots = tf.where(weights > 0)[:, 0]
    words, weights = tf.gather(words, slots), tf.gather(weights, slots)
    if labels:
      labels = TeacherLabels(*(tf.gather(part, slots) for part in labels))
  logits, next_sentence = modeling.pretraining_logits(
      options.config, is_training, features[records.INPUT_IDS],
      features[records.INPUT_MASK], features[records.SEGMENT_IDS],
      features[records.MASKED_LM_POSITIONS], is_real)
  word_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=words, logits=logits)
  losses = _mix(options, words, word_losses, logits, labels)
  log_normalizers = word_losses + tf.gather(logits, words, batch_dims=1)

  next_labels = tf.reshape(features[records.NEXT_SENTENCE_LABELS], [-1])
  next_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=next_labels, logits=next_sentence)
  masked_lm_loss = tf.reduce_sum(losses * weights) / size.num_words
  next_sentence_loss = tf.reduce_sum(next_losses) / size.num_sequences
  outputs = {
      "loss": masked_lm_loss + next_sentence_loss,
      "masked_lm_loss": masked_lm_loss,
      "next_sentence_loss": next_sentence_loss,
      "masked_lm_weights": weights,
      "masked_lm_hits": _hits(logits, words),
      "masked_lm_confidences": tf.exp(
          tf.reduce_max(logits, axis=-1) - log_normalizers),
      "masked_lm_cross_entropies": word_losses,
      "masked_lm_losses": losses,
      "next_sentence_hits": _hits(next_sentence, next_labels),
      "next_sentence_losses": next_losses,
  }
  if labels and not is_training:
    outputs.update(teacher_metrics(
        logits, labels, options.temperature, options.tail_samples))
  return outputs


def _labels(features: Mapping[str, tf.Tensor]) -> Optional[TeacherLabels]:
  """Returns the labels of a batch, None where it was read without."""
  if records.TEACHER_INDICES not in features:
    return None
  top_k = features[records.TEACHER_INDICES].shape[-1]
  return TeacherLabels(
      tf.reshape(features[records.TEACHER_PROBABILITIES], [-1, top_k]),
      tf.reshape(features[records.TEACHER_INDICES], [-1, top_k]))


def _mix(options: StudentOptions, words: tf.Tensor, word_losses: tf.Tensor,
         logits: tf.Tensor, labels: Optional[TeacherLabels]) -> tf.Tensor:
  """Returns what is trained for each slot, float32 [N]."""
  weight = options.hard_label_weight
  if weight == 1:
    return word_losses
  assert labels
  if weight > 0 and options.temperature == 1 and options.tail_mass != "bucket":
    return teacher_cross_entropies(logits, mix_in_words(
        _with_tail(labels, options.tail_mass), words, weight))
  losses = teacher_losses(
      logits, labels, options.temperature, options.tail_mass)
  if weight == 0:
    return losses
  return (1 - weight) * losses + weight * word_losses


def _hits(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
  """Returns 1.0 where the highest of [N, V] scores is the label's, else 0.0."""
  best = tf.argmax(logits, axis=-1, output_type=tf.int32)
  return tf.cast(tf.equal(best, labels), tf.float32)


def _restore(options: StudentOptions) -> Optional[Callable[[], Any]]:
  """Lets the variables start from the initial checkpoint.

  Returns:
    A scaffold_fn where a TPU needs the work done on its host, else None.
  """
  if not options.init_checkpoint:
    return None
  if not options.use_tpu:
    modeling.restore(options.init_checkpoint, options.init_layers)
    return None

  def scaffold_fn():
    modeling.restore(options.init_checkpoint, options.init_layers)
    return tf1.train.Scaffold()

  return scaffold_fn
