"""Encodes texts, trains a classifier on them and evaluates the classifier."""

import dataclasses
import math
import os
import shutil
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from absl import logging
import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1
import tqdm

from distillation import devices
from examples.text_files import Text
import modeling
import optimization
import tokenization
from util import files
from util.command_line import InputError

# BERT's recipe (Devlin et al. 2018, arXiv 1810.04805, appendix A.3).
_DROPOUT = 0.1
_STEPS_PER_WARMUP = 10
# One example in this many is held back to choose the learning rate.
EXAMPLES_PER_HELD_OUT = 10
# Quantile of the normal distribution for a 95% interval.
_NORMAL_QUANTILE = 1.959964
_PREDICT_BATCH_SIZE = 64
# Number of batches in a window. Texts are grouped by length within a window.
_GROUPED_BATCHES = 50
_WINDOWS_PER_EPOCH = 10
# Sequences are padded to a multiple of this length, for vector instructions.
_PAD_TO = 8
# Seconds until a progress bar appears.
BAR_DELAY = 5
ENCODER_SCOPE = "bert/"
HEAD_VARIABLES = ("output_weights", "output_bias")


# --- Examples ----------------------------------------------------------------


class SoftTargets(NamedTuple):
  """A teacher's probabilities for N texts.

  Attributes:
    probabilities: float32 [N, L], at the training temperature.
    hard_weights: float32 [N], w: the weight of the true label in the loss. The
      teacher's probabilities have the weight 1 - w.
  """
  probabilities: Any
  hard_weights: Any

  def take(self, indices: np.ndarray) -> "SoftTargets":
    """Returns the targets of the texts with these indices."""
    return SoftTargets(self.probabilities[indices], self.hard_weights[indices])


class Examples(NamedTuple):
  """N texts in the model's input form.

  Attributes:
    token_ids: N int32 arrays: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].
    first_lengths: int32 [N], number of tokens up to the first [SEP], included.
    label_ids: int32 [N], indices into the labels; 0 for texts without a label.
    soft: the teacher's probabilities; None without a teacher.
  """
  token_ids: Sequence[np.ndarray]
  first_lengths: np.ndarray
  label_ids: np.ndarray
  soft: Optional[SoftTargets] = None

  @property
  def size(self) -> int:
    return len(self.token_ids)

  def take(self, indices: np.ndarray) -> "Examples":
    """Returns the examples with these indices, in the order of `indices`."""
    return Examples([self.token_ids[i] for i in indices],
                    self.first_lengths[indices], self.label_ids[indices],
                    self.soft and self.soft.take(indices))


class Encoding(NamedTuple):
  """Turns texts into examples.

  Attributes:
    tokenizer: turns text into token ids.
    labels: the labels in the order of their ids.
    max_seq_length: maximum length of a sequence in tokens.
  """
  tokenizer: tokenization.FullTokenizer
  labels: Sequence[str]
  max_seq_length: int

  def encode(self, texts: Sequence[Text]) -> Examples:
    """Tokenises and truncates texts."""
    vocab = self.tokenizer.vocab
    start = [vocab[tokenization.CLASS_TOKEN]]
    end = [vocab[tokenization.SEPARATOR_TOKEN]]
    packed_ids, lengths = self.tokenizer.encode_lines(
        [text.first for text in texts] + [text.second for text in texts])
    all_ids = np.split(np.array(packed_ids, np.int32),
                       np.cumsum(lengths, dtype=np.int64)[:-1])
    token_ids, first_lengths = [], []
    for first, second in zip(all_ids[:len(texts)], all_ids[len(texts):]):
      num_first, num_second = truncated_lengths(
          len(first), len(second),
          self.max_seq_length - (3 if len(second) else 2))
      parts: List[Any] = [start, first[:num_first], end]
      if num_second:
        parts += [second[:num_second], end]
      token_ids.append(np.concatenate(parts).astype(np.int32))
      first_lengths.append(num_first + 2)
    ids = {label: index for index, label in enumerate(self.labels)}
    return Examples(
        token_ids, np.array(first_lengths, np.int32),
        np.array([ids.get(text.label, 0) for text in texts], np.int32))


def truncated_lengths(first: int, second: int, limit: int) -> Tuple[int, int]:
  """Truncates a pair of texts as BERT does.

  BERT removes one token at a time from the longer text, or from the second text
  if both have the same length.

  Args:
    first: number of tokens of the first text.
    second: number of tokens of the second text.
    limit: maximum number of tokens of the pair, at least 2.

  Returns:
    The remaining numbers of tokens of the first and the second text.
  """
  if first + second > limit:
    first = min(first, max(limit - second, (limit + 1) // 2))
    second = min(second, limit - first)
  return first, second


def hold_out(label_ids: np.ndarray, seed: int) -> np.ndarray:
  """Selects a tenth of the examples of each label, rounded to the nearest.

  Args:
    label_ids: int32 [N].
    seed: seed of the selection.

  Returns:
    bool [N], True for the selected examples.
  """
  generator = np.random.default_rng(seed)
  is_held_out = np.zeros(len(label_ids), bool)
  for label_id in np.unique(label_ids):
    indices = np.flatnonzero(label_ids == label_id)
    count = (
        len(indices) + EXAMPLES_PER_HELD_OUT // 2) // EXAMPLES_PER_HELD_OUT
    is_held_out[generator.permutation(indices)[:count]] = True
  return is_held_out


# --- The classifier ----------------------------------------------------------


class Inputs(NamedTuple):
  """Inputs of the graph for B sequences of S tokens: placeholders or arrays.

  Attributes:
    input_ids: int32 [B, S].
    input_mask: int32 [B, S], 1 for a token and 0 for padding.
    segment_ids: int32 [B, S].
    label_ids: int32 [B].
  """
  input_ids: Any
  input_mask: Any
  segment_ids: Any
  label_ids: Any


def batch(examples: Examples, max_columns: int) -> Inputs:
  """Pads examples to the length of the longest example, rounded up.

  Args:
    examples: the examples of the batch.
    max_columns: maximum sequence length of the model.
  """
  lengths = np.array([len(ids) for ids in examples.token_ids])
  num_columns = min(max_columns, -(-lengths.max() // _PAD_TO) * _PAD_TO)
  positions = np.arange(num_columns)
  is_token = positions < lengths[:, np.newaxis]
  is_second = positions >= examples.first_lengths[:, np.newaxis]
  input_ids = np.zeros(is_token.shape, np.int32)
  input_ids[is_token] = np.concatenate(examples.token_ids)
  return Inputs(input_ids, is_token.astype(np.int32),
                (is_token & is_second).astype(np.int32), examples.label_ids)


class Schedule(NamedTuple):
  """Training schedule of a classifier.

  Attributes:
    learning_rate: the peak learning rate.
    num_examples: N, number of training examples.
    num_epochs: number of passes over the examples.
    batch_size: number of sequences per step.
    seed: seed of new weights, dropout and the order of the examples.
  """
  learning_rate: float
  num_examples: int
  num_epochs: float
  batch_size: int
  seed: int

  @property
  def num_reads(self) -> int:
    """R, the number of examples read in all epochs together."""
    return max(1, round(self.num_examples * self.num_epochs))

  @property
  def num_steps(self) -> int:
    return -(-self.num_reads // self.batch_size)

  def order(self) -> np.ndarray:
    """Returns int [R], the indices of the examples, epoch after epoch."""
    generator = np.random.default_rng(self.seed)
    epochs = [generator.permutation(self.num_examples)
              for _ in range(-(-self.num_reads // self.num_examples))]
    return np.concatenate(epochs)[:self.num_reads]


def grouped_by_length(order: np.ndarray, lengths: np.ndarray,
                      batch_size: int, seed: int) -> np.ndarray:
  """Groups examples of similar length into the same batch, to save padding.

  Examples move within a window of _GROUPED_BATCHES batches or a tenth of an
  epoch, whichever is less. A window longer than an epoch would put copies of an
  example into one batch.

  Args:
    order: int [R], indices of the examples.
    lengths: int [N], number of tokens of each example.
    batch_size: number of examples in a batch.
    seed: seed of the order of the batches.

  Returns:
    int [R], the same indices in another order.
  """
  num_batches = min(
      _GROUPED_BATCHES, len(lengths) // (_WINDOWS_PER_EPOCH * batch_size))
  if num_batches < 2:
    return order
  generator = np.random.default_rng(seed)
  pieces: List[np.ndarray] = []
  size = batch_size * num_batches
  for start in range(0, len(order), size):
    window = order[start:start + size]
    window = window[np.argsort(lengths[window], kind="stable")]
    num_whole = len(window) // batch_size * batch_size
    # An incomplete batch stays at the end.
    pieces += [*generator.permutation(
        window[:num_whole].reshape(-1, batch_size)), window[num_whole:]]
  return np.concatenate(pieces)


def format_rate(rate: float) -> str:
  """Returns a learning rate as text, the form in files and messages."""
  return "{:g}".format(rate)


class Classifier:
  """BERT and a dense layer on the pooled output, with a graph and a session.

  Example:
    schedule = Schedule(5e-5, examples.size, 3.0, 32, seed)
    with Classifier(config, num_labels, device, checkpoint, schedule) as model:
      model.train(examples)
      log_probabilities = model.predict(others)
  """

  def __init__(self, config: modeling.BertConfig, num_labels: int,
               device: devices.DeviceOptions, checkpoint: Optional[str],
               schedule: Optional[Schedule] = None,
               temperature: Optional[float] = None):
    """Builds the graph and starts its session.

    Args:
      config: config of the model.
      num_labels: L.
      device: precision of the arithmetic.
      checkpoint: checkpoint to load. With a schedule, only the encoder's
        variables are loaded. None initialises all variables.
      schedule: the training schedule; None for prediction only.
      temperature: temperature of the soft labels; None for hard labels only.
    """
    self._max_columns = config.max_position_embeddings
    self._schedule = schedule
    self._soft: Optional[SoftTargets] = None
    compute_type = devices.compute_type(device.precision)
    self._graph = tf.Graph()
    with self._graph.as_default():
      self._inputs = Inputs(*(
          tf1.placeholder(tf.int32, shape) for shape in (
              [None, None], [None, None], [None, None], [None])))
      if schedule:
        tf1.set_random_seed(schedule.seed)
        tf1.train.get_or_create_global_step()  # For dropout.
        logits = label_logits(
            config, True, self._inputs, num_labels, compute_type)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            self._inputs.label_ids, logits)
        if temperature is not None:
          self._soft = SoftTargets(
              tf1.placeholder(tf.float32, [None, num_labels]),
              tf1.placeholder(tf.float32, [None]))
          losses = mixed_losses(losses, logits, self._soft, temperature)
        self._loss = tf.reduce_mean(losses)
      self._log_probabilities = tf.nn.log_softmax(
          label_logits(
              config, False, self._inputs, num_labels, compute_type))
      variables = tf1.trainable_variables()
      if checkpoint:
        _restore([variable for variable in variables
                  if schedule is None
                  or variable.op.name.startswith(ENCODER_SCOPE)], checkpoint)
      self._saver = tf1.train.Saver(variables)
      if schedule:
        self._step = optimization.create_train_step(
            self._loss, schedule.learning_rate, schedule.num_steps,
            schedule.num_steps // _STEPS_PER_WARMUP,
            loss_scale=(optimization.LossScale()
                        if compute_type == tf.float16 else None))
      self._session = tf1.Session(config=devices.session_config(device))
      self._session.run([tf1.global_variables_initializer(),
                         tf1.local_variables_initializer()])
    self._graph.finalize()

  def __enter__(self) -> "Classifier":
    return self

  def __exit__(self, *unused_exception: Any) -> None:
    self._session.close()

  def train(self, examples: Examples) -> None:
    """Trains on examples, with the schedule.

    Raises:
      InputError: if the loss is NaN or infinite.
    """
    schedule = self._schedule
    assert schedule
    size = schedule.batch_size
    order = grouped_by_length(
        schedule.order(), np.array([len(ids) for ids in examples.token_ids]),
        size, schedule.seed)
    rate = format_rate(schedule.learning_rate)
    epoch_losses: List[float] = []
    start_time = time.monotonic()
    with tqdm.tqdm(total=schedule.num_steps, desc="learning rate " + rate,
                   unit=" steps", disable=None, dynamic_ncols=True) as bar:
      for step in range(schedule.num_steps):
        start, end = step * size, min((step + 1) * size, len(order))
        loss, is_finite, _ = self._session.run(
            [self._loss, self._step.is_finite, self._step.operation],
            self._feed(examples.take(order[start:end])))
        if not is_finite:
          raise InputError(
              "--learning_rate: the loss is NaN or infinite at step {} of {} "
              "with {}; remove this learning rate, or give lower ones"
              .format(step + 1, schedule.num_steps, rate))
        epoch_losses.append(loss)
        speed = end / (time.monotonic() - start_time)
        bar.set_postfix_str("loss {:.4f}, {:.1f} sequences/s".format(
            loss, speed), refresh=False)
        bar.update()
        num_epochs = end // examples.size
        if end == len(order) or num_epochs > start // examples.size:
          logging.info(
              "Learning rate %s, epoch %d of %d: loss %.4f, %.1f sequences/s",
              rate, max(1, num_epochs), math.ceil(schedule.num_epochs),
              np.mean(epoch_losses), speed)
          epoch_losses = []

  def predict(self, examples: Examples) -> np.ndarray:
    """Returns the log probabilities of the labels, float32 [N, L]."""
    # Batches of sequences of similar length need little padding.
    order = np.argsort([-len(ids) for ids in examples.token_ids], kind="stable")
    predicted: List[np.ndarray] = []
    with tqdm.tqdm(total=examples.size, desc="predicting", unit=" sequences",
                   disable=None, delay=BAR_DELAY, dynamic_ncols=True) as bar:
      for start in range(0, len(order), _PREDICT_BATCH_SIZE):
        indices = order[start:start + _PREDICT_BATCH_SIZE]
        predicted.append(self._session.run(
            self._log_probabilities, self._feed(examples.take(indices))))
        bar.update(len(indices))
    log_probabilities = np.concatenate(predicted)
    log_probabilities[order] = log_probabilities.copy()
    return log_probabilities

  def _feed(self, examples: Examples) -> Dict[tf.Tensor, np.ndarray]:
    feed = dict(zip(self._inputs, batch(examples, self._max_columns)))
    if self._soft and examples.soft:
      feed.update(zip(self._soft, examples.soft))
    return feed

  def save(self, path: str) -> None:
    """Writes a checkpoint of the variables, without the optimizer's slots.

    The index gets its name last: an incomplete checkpoint has no index.

    Args:
      path: path of the checkpoint, without `.index`.
    """
    partial = files.partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    with self._graph.as_default():
      self._saver.save(
          self._session, os.path.join(partial, os.path.basename(path)),
          write_meta_graph=False, write_state=False)
    for name in sorted(os.listdir(partial)):
      files.sync(os.path.join(partial, name))
      os.replace(os.path.join(partial, name),
                 os.path.join(os.path.dirname(path), name))
    os.rmdir(partial)


def mixed_losses(hard_losses: tf.Tensor, logits: tf.Tensor, soft: SoftTargets,
                 temperature: float) -> tf.Tensor:
  """Returns the losses of texts with a true label, soft labels or both.

  The loss is w * hard + (1 - w) * T^2 * cross entropy(soft labels,
  softmax(logits / T)), where w is the weight of the text's true label (Hinton
  et al. 2015, arXiv 1503.02531, section 2).

  Args:
    hard_losses: float32 [B], cross entropy with the true labels.
    logits: float32 [B, L].
    soft: tensors; the temperature of the probabilities is T.
    temperature: T.

  Returns:
    float32 [B].
  """
  soft_losses = temperature ** 2 * tf.nn.softmax_cross_entropy_with_logits(
      labels=soft.probabilities, logits=logits / temperature)
  return (soft.hard_weights * hard_losses
          + (1 - soft.hard_weights) * soft_losses)


def label_logits(config: modeling.BertConfig, is_training: bool,
                 inputs: Inputs, num_labels: int,
                 compute_type: tf.DType = tf.float32) -> tf.Tensor:
  """Builds the model, or reuses its variables; returns logits [B, L]."""
  with tf1.variable_scope(tf1.get_variable_scope(), reuse=tf1.AUTO_REUSE):
    pooled = modeling.BertModel(
        config, is_training, inputs.input_ids, inputs.input_mask,
        inputs.segment_ids, scope="bert",
        # The last layer computes only the first token.
        output_positions=tf.zeros_like(inputs.input_ids[:, :1]),
        compute_type=compute_type,
        for_cpu=not devices.has_gpu()).get_pooled_output()
    weights = tf1.get_variable(
        HEAD_VARIABLES[0], [num_labels, config.hidden_size],
        initializer=modeling.create_initializer(config.initializer_range),
        use_resource=True)
    bias = tf1.get_variable(
        HEAD_VARIABLES[1], [num_labels], initializer=tf1.zeros_initializer(),
        use_resource=True)
  pooled = tf.cast(pooled, tf.float32)
  if is_training:
    with tf.name_scope("classifier"):
      pooled = modeling.dropout(pooled, _DROPOUT)
  return tf.nn.bias_add(tf.matmul(pooled, weights, transpose_b=True), bias)


def _restore(variables: Sequence[tf.Variable], checkpoint: str) -> None:
  """Initialises variables from a checkpoint, which `check_encoder` checked."""
  names, _ = modeling.get_assignment_map_from_checkpoint(variables, checkpoint)
  tf1.train.init_from_checkpoint(checkpoint, names)


# --- Evaluation --------------------------------------------------------------


class Interval(NamedTuple):
  """A range of values."""
  low: float
  high: float


def wilson_interval(num_correct: int, num_examples: int) -> Interval:
  """Returns the 95% interval of an accuracy (Wilson 1927)."""
  z_squared = _NORMAL_QUANTILE ** 2
  share = num_correct / num_examples
  scale = 1 + z_squared / num_examples
  centre = (share + z_squared / (2 * num_examples)) / scale
  margin = _NORMAL_QUANTILE / scale * math.sqrt(
      share * (1 - share) / num_examples
      + z_squared / (4 * num_examples ** 2))
  # Despite rounding errors, the interval must contain the accuracy.
  return Interval(max(0.0, min(share, centre - margin)),
                  min(1.0, max(share, centre + margin)))


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Results of a classifier on held-out texts.

  Attributes:
    confusion: int64 [L, L], number of examples by true label (rows) and
      predicted label (columns).
    loss: mean cross entropy.
    agreement: share of texts for which the teacher predicts the same label;
      None without a teacher.
  """
  confusion: np.ndarray
  loss: float
  agreement: Optional[float] = None

  @property
  def num_examples(self) -> int:
    return int(self.confusion.sum())

  @property
  def num_correct(self) -> int:
    return int(np.trace(self.confusion))

  @property
  def accuracy(self) -> float:
    return self.num_correct / self.num_examples

  def results(self) -> Dict[str, Any]:
    """Returns the values for eval_results.txt, by key."""
    interval = wilson_interval(self.num_correct, self.num_examples)
    results = {"accuracy": self.accuracy, "accuracy_low": interval.low,
               "accuracy_high": interval.high, "loss": self.loss,
               "num_examples": self.num_examples}
    if self.agreement is not None:
      results["teacher_agreement"] = self.agreement
    return results

  def report(self, path: str, labels: Sequence[str]) -> str:
    """Returns the results and the confusion table as text.

    Args:
      path: path of the held-out texts.
      labels: the labels in the order of their ids.
    """
    interval = wilson_interval(self.num_correct, self.num_examples)
    rows = [["", *labels], *([label, *map(str, counts)] for label, counts in
                             zip(labels, self.confusion.tolist()))]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join([
        "{}: accuracy {:.4f} (95% interval {:.4f} to {:.4f}), {} of {} correct,"
        " loss {:.4f}".format(
            path, self.accuracy, *interval, self.num_correct,
            self.num_examples, self.loss)
        + ("" if self.agreement is None else
           ", agreement with the teacher {:.4f}".format(self.agreement)),
        "", "Rows: true label; columns: predicted label.",
        *("  ".join([row[0].ljust(widths[0]),
                     *map(str.rjust, row[1:], widths[1:])]) for row in rows),
        ""])


def evaluate(log_probabilities: np.ndarray,
             label_ids: np.ndarray) -> Evaluation:
  """Compares predictions with the true labels.

  Args:
    log_probabilities: float32 [N, L].
    label_ids: int32 [N].
  """
  num_examples, num_labels = log_probabilities.shape
  confusion = np.zeros([num_labels, num_labels], np.int64)
  np.add.at(confusion, (label_ids, log_probabilities.argmax(axis=1)), 1)
  losses = -log_probabilities[np.arange(num_examples), label_ids]
  return Evaluation(confusion, float(losses.mean(dtype=np.float64)))
