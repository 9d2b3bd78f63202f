"""Truncation of the teacher's distribution, and the student's losses.

The student learns from K stored entries of the distribution, or from hidden
states, which give the whole distribution. Losses against entries have gradients
in closed form.

Dimensions:
  P: slots for masked tokens in a sequence
  N: slots in a batch
  V: tokens in the vocabulary
  K: teacher entries stored for each slot
  M: randomly sampled entries among the K
  H: hidden_size of the teacher
"""

import dataclasses
from typing import NamedTuple, Optional, Tuple, Union

import tensorflow as tf

# What to do with the teacher's probability outside the stored entries.
TAIL_MASSES = ("drop", "renormalize", "bucket")
# Schedules of the hard labels' weight.
HARD_LABEL_SCHEDULES = ("constant", "linear")
# Tokens in a block of the vocabulary, for searches over block maxima and sums.
_BLOCK_SIZE = 128


class TeacherLabels(NamedTuple):
  """The stored entries of the teacher's distribution.

  Attributes:
    probabilities: float32 [N, K], in descending order.
    indices: int32 [N, K], token ids.
  """
  probabilities: tf.Tensor
  indices: tf.Tensor


class TeacherHiddenStates(NamedTuple):
  """The teacher's whole distribution in factors, softmax(h E' + b).

  Attributes:
    hidden_states: h, float32 [N, H], input of the teacher's decoder.
    word_embeddings: E, float32 [V, H].
    output_bias: b, float32 [V].
  """
  hidden_states: tf.Tensor
  word_embeddings: tf.Tensor
  output_bias: tf.Tensor

  def distribution(self, temperature: float = 1.0) -> tf.Tensor:
    """Returns softmax((h E' + b) / T), float32 [N, V]."""
    return tf.nn.softmax(_scaled(self.logits(), temperature))

  def logits(self) -> tf.Tensor:
    """Returns h E' + b, float32 [N, V]."""
    return tf.nn.bias_add(
        tf.matmul(self.hidden_states, self.word_embeddings, transpose_b=True),
        self.output_bias)


Labels = Union[TeacherLabels, TeacherHiddenStates]


@dataclasses.dataclass(frozen=True)
class LossOptions:
  """Terms of the student's loss, and their weights.

  Attributes:
    hard_label_weight: w; the masked-LM loss is (1 - w) times the loss against
      the teacher plus w times the cross entropy of the masked tokens. At 1 the
      teacher's labels are not read.
    hard_label_schedule: one of `HARD_LABEL_SCHEDULES`; `linear` moves w from
      `hard_label_weight` at the first step to the final weight at the last.
    final_hard_label_weight: w at the end of the linear schedule; None is 1.
    temperature: T, as for `teacher_losses`.
    tail_mass: as for `teacher_losses`.
    hidden_cosine_weight: weight of the mean of `hidden_cosine_losses`.
    hidden_projection: whether a learned matrix first projects the student's
      hidden states.
    next_sentence_weight: weight of the next-sentence loss; at 0 the
      next-sentence head is not trained.
  """
  hard_label_weight: float = 0.0
  hard_label_schedule: str = "constant"
  final_hard_label_weight: Optional[float] = None
  temperature: float = 1.0
  tail_mass: str = "drop"
  hidden_cosine_weight: float = 0.0
  hidden_projection: bool = False
  next_sentence_weight: float = 1.0

  @property
  def hard_label_weights(self) -> Tuple[float, float]:
    """Weights of the hard labels at the first and at the last step."""
    first, last = self.hard_label_weight, self.final_hard_label_weight
    if self.hard_label_schedule == "constant":
      return first, first
    return first, 1.0 if last is None else last

  @property
  def reads_teacher(self) -> bool:
    """Whether any step learns from the teacher's labels."""
    return (self.hard_label_weights != (1, 1)
            or self.hidden_cosine_weight > 0)


def truncate(logits: tf.Tensor, truncation_factor: int,
             temperature: float = 1.0, tail_samples: int = 0,
             offsets: Optional[tf.Tensor] = None,
             for_cpu: bool = False) -> TeacherLabels:
  """Keeps K entries of the teacher's distribution.

  Without samples these are the K most probable tokens with their probabilities,
  which sum to less than 1. With M samples the last M entries represent all
  other tokens: each token is drawn, without replacement, with a chance of
  min(1, p / t), and stored as max(p, t). The threshold t makes the chances sum
  to M. The expectation of the stored entries is therefore the whole
  distribution, and their cross entropy an unbiased estimate of the full cross
  entropy, with the least variance of all such samples (Cohen et al. 2009, arXiv
  0803.0473, "Stream sampling for variance-optimal estimation of subset sums").

  Args:
    logits: float32 [N, V], the teacher's logits z.
    truncation_factor: K.
    temperature: T of softmax(z / T).
    tail_samples: M, less than K.
    offsets: float64 [N], uniform from 0 to 1 - 2^-32; determine the samples.
    for_cpu: whether to search with `top_k_entries`, which is faster on CPUs and
      finds the same tokens.

  Returns:
    The K - M most probable tokens, then the samples, each in descending order.
  """
  distribution = tf.nn.softmax(logits / temperature if temperature != 1
                               else logits)
  find = top_k_entries if for_cpu else tf.math.top_k
  best = TeacherLabels(*find(distribution, truncation_factor))
  if not tail_samples:
    return best
  assert offsets is not None
  # Sums over the vocabulary need float64: float32 would round small terms away.
  total = tf.cast(tf.reduce_sum(distribution, axis=-1, keepdims=True),
                  tf.float64)  # 1, but for rounding.
  num_certain = _num_certain(
      tf.cast(best.probabilities, tf.float64), total, tail_samples)
  ranks = tf.range(truncation_factor, dtype=tf.int64)
  is_certain = ranks < num_certain  # [N, K]
  tail = _put_entries(distribution, best.indices, tf.where(
      is_certain, 0.0, best.probabilities))
  # Samples for the entries of certain tokens are computed, but not used.
  numbers = tf.nn.relu(ranks - num_certain)
  threshold, tokens = _sample(
      tail, truncation_factor - num_certain,
      offsets[:, tf.newaxis] + tf.cast(numbers, tf.float64))
  return TeacherLabels(
      tf.cast(tf.where(is_certain, tf.cast(best.probabilities, tf.float64),
                       threshold) / total, tf.float32),
      tf.cast(tf.where(is_certain, tf.cast(best.indices, tf.int64), tokens),
              tf.int32))


def _num_certain(best: tf.Tensor, total: tf.Tensor,
                 tail_samples: int) -> tf.Tensor:
  """Counts the tokens that are stored with certainty.

  These are the K - M most probable tokens, and every further token whose
  probability reaches the threshold for a sample of itself and the tokens of
  lower rank.

  Args:
    best: float64 [N, K], the highest probabilities, in descending order.
    total: float64 [N, 1], the sum over the vocabulary.
    tail_samples: M.

  Returns:
    int64 [N, 1], from K - M to K - 1; int32 would be computed on the host.
  """
  num_top = best.shape[1] - tail_samples
  # Probability outside the num_top, num_top + 1, ... most probable tokens.
  rests = (total - tf.cumsum(best, axis=-1))[:, num_top - 1:-1]
  thresholds = rests / tf.range(tail_samples, 0, -1, tf.float64)  # [N, M]
  return num_top + tf.minimum(
      tf.constant(tail_samples - 1, tf.int64), tf.math.count_nonzero(
          best[:, num_top:] >= thresholds, axis=-1, keepdims=True))


def _sample(tail: tf.Tensor, num_samples: tf.Tensor,
            points: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
  """Samples tokens systematically: at equally spaced cumulative probabilities.

  The spacing is the threshold, the sum of the probabilities divided by the size
  of the sample. Each probability is below the threshold, so no token is drawn
  twice. Sums over blocks come first, for speed.

  Args:
    tail: float32 [N, V], probabilities, 0 for tokens to leave out.
    num_samples: int64 [N, 1].
    points: float64 [N, K], the sampled cumulative probabilities, in units of
      the threshold.

  Returns:
    The thresholds, float64 [N, 1], and the sampled tokens, int64 [N, K].
  """
  blocks = _split(tail, 0.0)
  cumulated = tf.cumsum(
      tf.cast(tf.reduce_sum(blocks, axis=-1), tf.float64), axis=-1)
  threshold = cumulated[:, -1:] / tf.cast(num_samples, tf.float64)
  points *= threshold
  last_block, last_token = (
      tf.constant(size - 1, tf.int64) for size in (blocks.shape[1],
                                                   tail.shape[1]))
  block = tf.minimum(last_block, tf.searchsorted(
      cumulated, points, side="right", out_type=tf.int64))  # [N, K]
  before = tf.gather(tf.pad(cumulated, [[0, 0], [1, 0]]), block, batch_dims=1)
  in_block = tf.cumsum(tf.cast(
      tf.gather(blocks, block, batch_dims=1), tf.float64), axis=-1)
  position = tf.minimum(
      tf.constant(_BLOCK_SIZE - 1, tf.int64), tf.math.count_nonzero(
          in_block <= (points - before)[:, :, tf.newaxis], axis=-1))
  return threshold, tf.minimum(last_token, block * _BLOCK_SIZE + position)


def top_k_entries(distribution: tf.Tensor, top_k: int
                 ) -> Tuple[tf.Tensor, tf.Tensor]:
  """Finds the k highest of V values as `tf.math.top_k` does, faster on CPUs.

  The k highest values are in the k blocks with the highest maxima, and vector
  instructions find the maximum of a block.

  Args:
    distribution: float32 [N, V], values above -1.
    top_k: k.

  Returns:
    Values, float32 [N, k], in descending order, and indices, int32 [N, k].
  """
  blocks = _split(distribution, -1.0)
  if top_k > blocks.shape[1] // 2:
    return tf.math.top_k(distribution, k=top_k)
  _, best_blocks = tf.math.top_k(tf.reduce_max(blocks, axis=-1), k=top_k)
  best_blocks = tf.sort(best_blocks)  # Ties go to the lowest index.
  candidates = tf.reshape(tf.gather(blocks, best_blocks, batch_dims=1),
                          [-1, top_k * _BLOCK_SIZE])
  values, positions = tf.math.top_k(candidates, k=top_k)
  indices = (tf.gather(best_blocks, positions // _BLOCK_SIZE, batch_dims=1)
             * _BLOCK_SIZE + positions % _BLOCK_SIZE)
  return values, indices


def _split(values: tf.Tensor, padding: float) -> tf.Tensor:
  """Splits float32 [N, V] into padded blocks, [N, blocks, block size]."""
  size = values.shape[1]
  num_blocks = -(-size // _BLOCK_SIZE)
  return tf.reshape(
      tf.pad(values, [[0, 0], [0, num_blocks * _BLOCK_SIZE - size]],
             constant_values=padding), [-1, num_blocks, _BLOCK_SIZE])


def masked_lm_losses(options: LossOptions, progress: tf.Tensor,
                     logits: tf.Tensor, hard_labels: tf.Tensor,
                     hard_losses: tf.Tensor, labels: Optional[Labels]
                    ) -> tf.Tensor:
  """Returns the masked-LM loss of each slot.

  Args:
    options: weights of the losses.
    progress: float32, a scalar: the fraction of training that is done.
    logits: float32 [N, V], the student's logits.
    hard_labels: int32 [N], ids of the masked tokens.
    hard_losses: float32 [N], cross entropies of the masked tokens.
    labels: the teacher's labels; may be None if no step reads them.

  Returns:
    float32 [N].
  """
  first, last = options.hard_label_weights
  if (first, last) == (1, 1):
    return hard_losses
  assert labels
  weight: Union[float, tf.Tensor] = first
  if first != last:
    weight = first + (last - first) * progress
  has_hard_labels = (first, last) != (0, 0)
  if has_hard_labels and options.temperature == 1:
    # One cross entropy with a mixed target is faster than two.
    if isinstance(labels, TeacherHiddenStates):
      return _full_cross_entropies(logits, _mix_into_distribution(
          labels.distribution(), hard_labels, weight))
    if options.tail_mass != "bucket":
      return teacher_cross_entropies(logits, mix_hard_labels(
          _with_tail(labels, options.tail_mass), hard_labels, weight))
  losses = teacher_losses(
      logits, labels, options.temperature, options.tail_mass)
  if not has_hard_labels:
    return losses
  return (1 - weight) * losses + weight * hard_losses


def teacher_losses(logits: tf.Tensor, labels: Labels,
                   temperature: float = 1.0,
                   tail_mass: str = "drop") -> tf.Tensor:
  """Returns the loss against the teacher in each slot.

  T divides the student's logits and T^2 multiplies the loss, which keeps the
  size of the gradients (Hinton et al. 2015, arXiv 1503.02531).

  Args:
    logits: float32 [N, V], the student's logits.
    labels: the teacher's labels at temperature T.
    temperature: T.
    tail_mass: treatment of the teacher's probability outside the K stored
      entries, one of `TAIL_MASSES`: `drop` gives the cross entropy with the
      stored probabilities, `renormalize` scales them to a sum of 1, `bucket`
      gives the divergence with the rest as one more entry. Ignored for hidden
      states, whose loss is the full cross entropy.

  Returns:
    float32 [N].
  """
  assert tail_mass in TAIL_MASSES, tail_mass
  if isinstance(labels, TeacherHiddenStates):
    losses = teacher_cross_entropies(logits, labels, temperature)
  elif tail_mass == "bucket":
    losses = divergences_from_teacher(logits, labels, temperature)
  else:
    losses = teacher_cross_entropies(
        logits, _with_tail(labels, tail_mass), temperature)
  return losses * temperature ** 2


def _with_tail(labels: TeacherLabels, tail_mass: str) -> TeacherLabels:
  """Returns the training target under `drop` or `renormalize`."""
  if tail_mass == "drop":
    return labels
  return labels._replace(probabilities=tf.math.divide_no_nan(
      labels.probabilities,
      tf.reduce_sum(labels.probabilities, axis=-1, keepdims=True)))


def mix_hard_labels(labels: TeacherLabels, hard_labels: tf.Tensor,
                    weight: Union[float, tf.Tensor]) -> TeacherLabels:
  """Mixes the hard labels into the teacher's labels.

  Cross entropy is linear in its target: the cross entropy of the mixture is the
  weighted sum of both cross entropies.

  Args:
    labels: the teacher's labels.
    hard_labels: int32 [N], ids of the masked tokens.
    weight: w, weight of the hard labels; the teacher's labels have 1 - w.

  Returns:
    Labels with K + 1 entries, which may hold a token twice.
  """
  hard_labels = hard_labels[:, tf.newaxis]
  return TeacherLabels(
      tf.concat([(1 - weight) * labels.probabilities,
                 tf.fill(tf.shape(hard_labels), weight)], axis=1),
      tf.concat([labels.indices, hard_labels], axis=1))


def _mix_into_distribution(distribution: tf.Tensor, hard_labels: tf.Tensor,
                           weight: Union[float, tf.Tensor]) -> tf.Tensor:
  """Mixes hard labels, int32 [N], into a distribution, float32 [N, V]."""
  return tf.tensor_scatter_nd_add(
      (1 - weight) * distribution, _coordinates(hard_labels[:, tf.newaxis]),
      tf.fill([tf.size(hard_labels), 1], weight))


def hidden_cosine_losses(hidden_states: tf.Tensor,
                         teacher_hidden_states: tf.Tensor) -> tf.Tensor:
  """Returns 1 - cos of the student's and the teacher's hidden states.

  This is DistilBERT's alignment loss (Sanh et al. 2019, arXiv 1910.01108), here
  on the inputs of both decoders.

  Args:
    hidden_states: float32 [N, H], the student's hidden states.
    teacher_hidden_states: float32 [N, H].

  Returns:
    float32 [N], from 0 to 2.
  """
  return 1 - tf.reduce_sum(
      tf.math.l2_normalize(hidden_states, axis=-1)
      * tf.math.l2_normalize(teacher_hidden_states, axis=-1), axis=-1)


def teacher_cross_entropies(logits: tf.Tensor, labels: Labels,
                            temperature: float = 1.0) -> tf.Tensor:
  """Returns the cross entropy with the teacher's labels in each slot.

  For K entries, -sum_K p_teacher * log_softmax(student / T), with the
  probabilities as stored. Allocates one tensor of the size of the logits, which
  becomes the gradient. For hidden states the sum is over all V tokens, and the
  teacher's distribution is a second such tensor, freed after the loss.

  Args:
    logits: float32 [N, V], the student's logits.
    labels: the teacher's labels.
    temperature: T.

  Returns:
    float32 [N].
  """
  if isinstance(labels, TeacherHiddenStates):
    return _full_cross_entropies(
        logits, labels.distribution(temperature), temperature)
  probabilities, indices = labels

  @tf.custom_gradient
  def from_logits(logits):
    scaled = _scaled(logits, temperature)
    entries = tf.gather(scaled, indices, batch_dims=1)  # [N, K]
    # Label of the fused kernel: the stored entry with the student's highest
    # logit. Differences from this logit keep digits that large logits lose.
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
  """Returns KL(teacher, student) over the stored entries and the rest as one.

  With q = softmax(student / T), r = 1 - sum_K p and s = 1 - sum_K q, the
  divergence is sum_K p log(p / q) + r log(r / s). If all V tokens are stored,
  there is no rest, and the result is the full divergence.

  s is a sum over the tokens outside K, which is precise however small s is. The
  gradient is q_j * (sum_K p + r) - p_j for a stored token and
  t_j * (s * (sum_K p + r) - r) for any other token, with t_j = q_j / s: every
  factor is within [0, 1] up to rounding, for any logits. The divergence does
  not depend on how s is distributed over its tokens; training lowers the
  probability of tokens that are never stored.

  Args:
    logits: float32 [N, V], the student's logits.
    labels: the teacher's labels, each token once.
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
    best_logits = tf.gather(scaled, best, batch_dims=1)
    # Differences from the highest logit keep digits that large logits lose.
    highest = tf.maximum(best_logits, tf.reduce_max(entries, axis=-1))
    entries -= highest[:, tf.newaxis]
    log_rest = best_logits - highest + best_losses
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


def _full_cross_entropies(logits: tf.Tensor, distribution: tf.Tensor,
                          temperature: float = 1.0) -> tf.Tensor:
  """Returns -sum_V p log_softmax(logits / T), [N], of p [N, V].

  TensorFlow's kernel computes loss and gradient together, and keeps nothing
  else in memory.
  """
  return tf.nn.softmax_cross_entropy_with_logits(
      labels=tf.stop_gradient(distribution),
      logits=_scaled(logits, temperature))


def _scaled(logits: tf.Tensor, temperature: float) -> tf.Tensor:
  return logits if temperature == 1 else logits / temperature


def _softmax(logits: tf.Tensor, labels: tf.Tensor
            ) -> Tuple[tf.Tensor, tf.Tensor]:
  """Runs TensorFlow's fused cross-entropy kernel in float32.

  Args:
    logits: [N, V].
    labels: int32 [N], a token id for each slot.

  Returns:
    -log_softmax at the labels, float32 [N], and the gradient softmax - onehot,
    float32 [N, V].
  """
  return tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
      features=tf.cast(logits, tf.float32), labels=labels)


def _add_entries(dense: tf.Tensor, factors: tf.Tensor, indices: tf.Tensor,
                 entries: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
  """Returns upstream * (factors * dense + entries at indices), [N, V]."""
  upstream = upstream[:, tf.newaxis]
  return tf.tensor_scatter_nd_add(
      dense * (upstream * factors), _coordinates(indices), upstream * entries)


def _put_entries(dense: tf.Tensor, indices: tf.Tensor,
                 entries: tf.Tensor) -> tf.Tensor:
  """Replaces the values of float32 [N, V] at the indices [N, K]."""
  return tf.tensor_scatter_nd_update(dense, _coordinates(indices), entries)


def _coordinates(indices: tf.Tensor) -> tf.Tensor:
  """Returns the slot and token id of each entry, int32 [N, K, 2]."""
  slots = tf.range(tf.shape(indices)[0])[:, tf.newaxis]
  return tf.stack([tf.broadcast_to(slots, tf.shape(indices)), indices], axis=-1)
