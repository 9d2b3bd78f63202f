"""Texts, the classifier that reads them, and how good it is."""

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
# One example in so many is held back to choose the learning rate.
EXAMPLES_PER_HELD_OUT = 10
# The quantile of the normal distribution for 95%.
_NORMAL_QUANTILE = 1.959964
_PREDICT_BATCH_SIZE = 64
# Batches of a window within which texts are grouped by length.
_GROUPED_BATCHES = 50
_WINDOWS_PER_EPOCH = 10
# Batches are padded to a multiple of this, which vector instructions like.
_PAD_TO = 8
# Seconds after which a bar appears.
BAR_DELAY = 5
ENCODER_SCOPE = "bert/"
HEAD_VARIABLES = ("output_weights", "output_bias")


# --- Examples ----------------------------------------------------------------


class SoftTargets(NamedTuple):
  """A teacher's probabilities for N texts.

  Attributes:
    probabilities: float32 [N, L], at the temperature of the training.
    hard_weights: float32 [N], the weight of the true label in the loss; the
      teacher's probabilities have the rest.
  """
  probabilities: Any
  hard_weights: Any

  def take(self, indices: np.ndarray) -> "SoftTargets":
    """Returns those of some of the texts."""
    return SoftTargets(self.probabilities[indices], self.hard_weights[indices])


class Examples(NamedTuple):
  """N texts as the model reads them.

  Attributes:
    token_ids: an int32 array each: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].
    first_lengths: int32 [N], tokens of segment 0, up to the first [SEP].
    label_ids: int32 [N], indices into the labels; 0 where there is none.
    soft: what a teacher says of them; None without a teacher.
  """
  token_ids: Sequence[np.ndarray]
  first_lengths: np.ndarray
  label_ids: np.ndarray
  soft: Optional[SoftTargets] = None

  @property
  def size(self) -> int:
    return len(self.token_ids)

  def take(self, indices: np.ndarray) -> "Examples":
    """Returns some of the examples, in the order of their indices."""
    return Examples([self.token_ids[i] for i in indices],
                    self.first_lengths[indices], self.label_ids[indices],
                    self.soft and self.soft.take(indices))


class Encoding(NamedTuple):
  """Turns texts into examples.

  Attributes:
    tokenizer: turns text into token ids.
    labels: the labels in the order of their ids.
    max_seq_length: the longest sequence.
  """
  tokenizer: tokenization.FullTokenizer
  labels: Sequence[str]
  max_seq_length: int

  def encode(self, texts: Sequence[Text]) -> Examples:
    """Tokenises texts and truncates them."""
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
  """Truncates a pair as BERT does: token by token, the longer text first.

  Of two equally long ones the second loses a token.

  Args:
    first: tokens of the first text.
    second: tokens of the second text.
    limit: tokens of both together, at least 2.

  Returns:
    How many tokens of each remain.
  """
  if first + second > limit:
    first = min(first, max(limit - second, (limit + 1) // 2))
    second = min(second, limit - first)
  return first, second


def hold_out(label_ids: np.ndarray, seed: int) -> np.ndarray:
  """Chooses a tenth of the examples of each label, rounded to the nearest.

  Args:
    label_ids: int32 [N].
    seed: of the choice.

  Returns:
    bool [N], True for the examples that are held back.
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
  """Inputs of the graph, placeholders or arrays; B sequences of S tokens.

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
  """Pads examples to the longest of them, rounded up.

  Args:
    examples: those of the batch.
    max_columns: the longest sequence that the model reads.
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
    learning_rate: the highest one.
    num_examples: N, how many there are.
    num_epochs: how often each of them is read.
    batch_size: sequences in a step.
    seed: of new weights, dropout and the order of the examples.
  """
  learning_rate: float
  num_examples: int
  num_epochs: float
  batch_size: int
  seed: int

  @property
  def num_reads(self) -> int:
    """Examples that are read, each as often as it is read."""
    return max(1, round(self.num_examples * self.num_epochs))

  @property
  def num_steps(self) -> int:
    return -(-self.num_reads // self.batch_size)

  def order(self) -> np.ndarray:
    """Returns the indices of the examples to read, epoch after epoch."""
    generator = np.random.default_rng(self.seed)
    epochs = [generator.permutation(self.num_examples)
              for _ in range(-(-self.num_reads // self.num_examples))]
    return np.concatenate(epochs)[:self.num_reads]


def grouped_by_length(order: np.ndarray, lengths: np.ndarray,
                      batch_size: int, seed: int) -> np.ndarray:
  """Moves examples of about the same length into the same batch.

  Batches that need little padding take less time. Examples move within a
  window of _GROUPED_BATCHES batches, or a tenth of an epoch where that is less:
  a longer window would hold an example twice, and put both into one batch.

  Args:
    order: int [R], indices of the examples to read.
    lengths: int [N], tokens of each example.
    batch_size: examples in a batch.
    seed: of the order of the batches.

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
    # A batch that is not full stays the last one.
    pieces += [*generator.permutation(
        window[:num_whole].reshape(-1, batch_size)), window[num_whole:]]
  return np.concatenate(pieces)


def format_rate(rate: float) -> str:
  """Returns a learning rate as it is named."""
  return "{:g}".format(rate)


class Classifier:
  """BERT and a dense layer on its pooled output, in a session of their own.

  Example:
    schedule = Schedule(5e-5, examples.size, 3.0, 32, seed)
    with Classifier(config, num_labels, device, start, schedule) as classifier:
      classifier.train(examples)
      log_probabilities = classifier.predict(others)
  """

  def __init__(self, config: modeling.BertConfig, num_labels: int,
               device: devices.DeviceOptions, checkpoint: Optional[str],
               schedule: Optional[Schedule] = None,
               temperature: Optional[float] = None):
    """Builds the graph and starts its session.

    Args:
      config: size of the model.
      num_labels: L.
      device: precision.
      checkpoint: what the variables start from, only those of the encoder
        where there is a schedule; None initialises all of them newly.
      schedule: how to train; None only predicts.
      temperature: of the soft labels to train on; None trains on hard labels.
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
        tf1.train.get_or_create_global_step()  # Dropout depends on it.
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
    """Trains on examples by the schedule.

    Raises:
      InputError: the loss is NaN or infinite.
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
              "with {}; leave this learning rate out, or give lower ones"
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
    """Returns the logarithms of the labels' probabilities, float32 [N, L]."""
    # Sequences of about the same length need little padding.
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
    """Writes the variables, without the optimizer's slots.

    Args:
      path: of the checkpoint, without `.index`; the index comes last, so that
        a checkpoint that can be read is complete.
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

  w * hard + (1 - w) * T^2 * cross entropy(soft labels, softmax(logits / T)),
  where w is a text's weight of the true label (Hinton et al. 2015, arXiv
  1503.02531, section 2).

  Args:
    hard_losses: float32 [B], cross entropy with the true labels.
    logits: float32 [B, L].
    soft: tensors; the probabilities are at the temperature.
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
  """Builds the model; float32 [B, L]. A second one shares the variables."""
  with tf1.variable_scope(tf1.get_variable_scope(), reuse=tf1.AUTO_REUSE):
    pooled = modeling.BertModel(
        config, is_training, inputs.input_ids, inputs.input_mask,
        inputs.segment_ids, scope="bert",
        # The last layer is computed only at the first token.
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
  """Makes variables start from a checkpoint that was compared with them."""
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
  # Rounding must not leave the accuracy itself outside.
  return Interval(max(0.0, min(share, centre - margin)),
                  min(1.0, max(share, centre + margin)))


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Figures of a classifier on held-out texts.

  Attributes:
    confusion: int64 [L, L], how many examples of each label (rows) were given
      each label (columns).
    loss: mean cross entropy.
    agreement: how often the teacher chooses the same label; None without a
      teacher.
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
    """Returns the figures of eval_results.txt, by key."""
    interval = wilson_interval(self.num_correct, self.num_examples)
    results = {"accuracy": self.accuracy, "accuracy_low": interval.low,
               "accuracy_high": interval.high, "loss": self.loss,
               "num_examples": self.num_examples}
    if self.agreement is not None:
      results["teacher_agreement"] = self.agreement
    return results

  def report(self, path: str, labels: Sequence[str]) -> str:
    """Returns the figures and the confusion table as text.

    Args:
      path: of the examples.
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
