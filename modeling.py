"""BERT (Devlin et al. 2018, arXiv 1810.04805): encoder, heads, checkpoints.

This room owns every variable of the model, under the names of Google's
checkpoints. It builds `tf.compat.v1` graphs that run on CPU, GPU and TPU, and
knows nothing of labels, losses and flags.

Dimensions:
  B: sequences in a batch
  S: tokens in a sequence
  P: masked positions in a sequence
  V: words in the vocabulary
  H: hidden size
  A: attention heads
  D: size of one head, H / A
"""

import collections
import dataclasses
import json
import math
import os
import re
import zlib
from typing import (Callable, Dict, Iterable, List, NamedTuple, Optional,
                    Sequence, Tuple)

from absl import logging
import tensorflow as tf

tf1 = tf.compat.v1

_LAYER_NORM_EPSILON = 1e-12
# Added to the attention scores of padding.
_MASKED_SCORE = -10000.0
# What the name of a variable begins with: a layer, or another part.
_LAYER = re.compile("bert/encoder/layer_([0-9]+)")
_PART = re.compile("[^/]*/?[^/]*")
_OPTIMIZER_SLOTS = ("adam_m", "adam_v")
_MODEL_SCOPES = ("bert/", "cls/")
# Arithmetic of the matrix products.
PRECISIONS = ("fp32", "bf16", "fp16")
# Without it TensorFlow's rewrite leaves tanh, and so GELU, in float32.
_REWRITE_VARIABLE = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_INFERLIST_ADD"


# --- Configuration -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Size of a model; the fields of Google's `bert_config.json`.

  Attributes:
    vocab_size: V.
    hidden_size: H.
    num_hidden_layers: layers in the encoder.
    num_attention_heads: A; divides H.
    intermediate_size: width of the feed-forward layers.
    hidden_act: activation of the feed-forward layers and the masked-LM head.
    hidden_dropout_prob: dropout of embeddings and layer outputs in training.
    attention_probs_dropout_prob: dropout of attention weights in training.
    max_position_embeddings: the longest sequence that the model can read.
    type_vocab_size: number of segments.
    initializer_range: standard deviation of fresh weights.
  """
  vocab_size: int
  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  intermediate_size: int = 3072
  hidden_act: str = "gelu"
  hidden_dropout_prob: float = 0.1
  attention_probs_dropout_prob: float = 0.1
  max_position_embeddings: int = 512
  type_vocab_size: int = 16
  initializer_range: float = 0.02

  def __post_init__(self):
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers",
             "num_attention_heads", "intermediate_size",
             "max_position_embeddings", "type_vocab_size")
    for field in sizes:
      value = getattr(self, field)
      if not isinstance(value, int) or value < 1:
        raise ValueError("{} is {!r}; it must be a whole number over 0".format(
            field, value))
    for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
      value = getattr(self, field)
      if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError("{} is {!r}; it must be from 0 to under 1".format(
            field, value))
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(
          "hidden_size {} is not a multiple of num_attention_heads {}".format(
              self.hidden_size, self.num_attention_heads))
    if self.hidden_act not in _ACTIVATIONS:
      raise ValueError("hidden_act is {!r}; it must be one of {}".format(
          self.hidden_act, ", ".join(sorted(_ACTIVATIONS))))

  @property
  def activation(self) -> Callable[[tf.Tensor], tf.Tensor]:
    """The function that hidden_act names."""
    return _ACTIVATIONS[self.hidden_act]

  @classmethod
  def from_json_file(cls, path: str) -> "BertConfig":
    """Reads a config; fields that this model does not have are passed over.

    Raises:
      ValueError: the file is no JSON object, or describes no model.
    """
    with tf.io.gfile.GFile(path) as file:
      try:
        values = json.loads(file.read())
      except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError):
        raise ValueError(
            "--bert_config_file: there is no file {}".format(path))
      except ValueError as error:
        raise ValueError("--bert_config_file: {} is not JSON ({})".format(
            path, error))
    if not isinstance(values, dict) or "vocab_size" not in values:
      raise ValueError(
          "--bert_config_file: {} has no vocab_size; it must be a JSON object "
          "like BERT's bert_config.json".format(path))
    names = {field.name for field in dataclasses.fields(cls)}
    try:
      return cls(**{
          name: value for name, value in values.items() if name in names})
    except ValueError as error:
      raise ValueError("--bert_config_file: {}: {}".format(path, error))

  def check_length(self, max_seq_length: int) -> None:
    """Raises ValueError where sequences are longer than the model can read."""
    if max_seq_length > self.max_position_embeddings:
      raise ValueError(
          "--max_seq_length={} is over max_position_embeddings={} of the "
          "config; use shorter sequences or another model".format(
              max_seq_length, self.max_position_embeddings))


# --- The graph ---------------------------------------------------------------


class BertModel:
  """The encoder and pooler over one batch.

  Attributes:
    embedding_table: float32 [V, H], the word embeddings.
    sequence_output: float32 [B, S, H], the last layer.
    pooled_output: float32 [B, H], made of each sequence's first token.
  """

  def __init__(self, config: BertConfig, is_training: bool,
               input_ids: tf.Tensor, input_mask: tf.Tensor,
               token_type_ids: tf.Tensor):
    """Builds the graph, with variables in the current scope.

    Args:
      config: size of the model.
      is_training: whether to apply dropout.
      input_ids: int32 [B, S], words.
      input_mask: int32 [B, S], 1 for a token and 0 for padding.
      token_type_ids: int32 [B, S], segments.
    """
    if not is_training:
      config = _for_inference(config)
    batch_size, seq_length = _shape(input_ids)
    with tf1.variable_scope("bert"):
      with tf1.variable_scope("embeddings"):
        self.embedding_table, embeddings = _embed(
            config, input_ids, token_type_ids)
      with tf1.variable_scope("encoder"):
        self.sequence_output = tf.reshape(
            _encode(config, embeddings, input_mask),
            [batch_size, seq_length, config.hidden_size])
      with tf1.variable_scope("pooler"):
        self.pooled_output = _dense(
            config, self.sequence_output[:, 0], config.hidden_size,
            activation=tf.tanh)


def masked_lm_logits(config: BertConfig, model: BertModel,
                     positions: tf.Tensor) -> tf.Tensor:
  """Scores every word of the vocabulary at the masked positions.

  Args:
    config: size of the model.
    model: the encoded batch.
    positions: int32 [B, P], into each sequence.

  Returns:
    float32 [B * P, V].
  """
  return _masked_lm_head(
      config, gather_positions(model.sequence_output, positions),
      model.embedding_table)


def real_masked_lm_logits(config: BertConfig, input_ids: tf.Tensor,
                          input_mask: tf.Tensor, token_type_ids: tf.Tensor,
                          positions: tf.Tensor, is_real: tf.Tensor
                         ) -> tf.Tensor:
  """Scores the masked words with only the work that they need.

  Equal to `BertModel` without dropout and `masked_lm_logits`, but the last
  layer is computed at the masked positions only, its feed-forward part and
  the head at real ones only, and there is no pooler.

  Args:
    config: size of the model.
    input_ids: int32 [B, S], words.
    input_mask: int32 [B, S], 1 for a token and 0 for padding.
    token_type_ids: int32 [B, S], segments.
    positions: int32 [B, P], into each sequence.
    is_real: bool [B, P], False for padded slots.

  Returns:
    float32 [R, V], the scores of the R real slots in their order.
  """
  config = _for_inference(config)
  with tf1.variable_scope("bert"):
    with tf1.variable_scope("embeddings"):
      embedding_table, embeddings = _embed(config, input_ids, token_type_ids)
    with tf1.variable_scope("encoder"):
      hidden = _encode(config, embeddings, input_mask,
                       _Outputs(positions, is_real))
  return _masked_lm_head(config, hidden, embedding_table)


class PretrainingLogits(NamedTuple):
  """The scores of both heads.

  Attributes:
    masked_lm: float32 [R, V], of the R wanted slots in their order.
    next_sentence: float32 [B, 2].
  """
  masked_lm: tf.Tensor
  next_sentence: tf.Tensor


def pretraining_logits(config: BertConfig, is_training: bool,
                       input_ids: tf.Tensor, input_mask: tf.Tensor,
                       token_type_ids: tf.Tensor, positions: tf.Tensor,
                       is_real: Optional[tf.Tensor] = None
                      ) -> PretrainingLogits:
  """Scores masked words and next sentences with the work that they need.

  Equal to `BertModel` with both heads, but the last layer is computed at the
  masked positions and each sequence's first token only.

  Args:
    config: size of the model.
    is_training: whether to apply dropout.
    input_ids: int32 [B, S], words.
    input_mask: int32 [B, S], 1 for a token and 0 for padding.
    token_type_ids: int32 [B, S], segments.
    positions: int32 [B, P], into each sequence.
    is_real: bool [B, P], False for slots to leave out; None takes all of them,
      in shapes that are static where those of the inputs are.

  Returns:
    The scores.
  """
  if not is_training:
    config = _for_inference(config)
  first = tf.zeros_like(positions[:, :1])
  outputs = _Outputs(
      tf.concat([first, positions], axis=1),
      None if is_real is None else tf.concat(
          [tf.ones_like(first, tf.bool), is_real], axis=1))
  with tf1.variable_scope("bert"):
    with tf1.variable_scope("embeddings"):
      embedding_table, embeddings = _embed(config, input_ids, token_type_ids)
    with tf1.variable_scope("encoder"):
      hidden = _encode(config, embeddings, input_mask, outputs)
    if is_real is None:
      width = config.hidden_size
      hidden = tf.reshape(
          hidden, [_shape(positions)[0], _shape(positions)[1] + 1, width])
      firsts, masked = hidden[:, 0], tf.reshape(hidden[:, 1:], [-1, width])
    else:
      # The rows of the wanted places, counted from each sequence's start.
      columns = tf.where(outputs.is_real)[:, 1]
      firsts = tf.gather(hidden, tf.where(tf.equal(columns, 0))[:, 0])
      masked = tf.gather(hidden, tf.where(columns > 0)[:, 0])
    with tf1.variable_scope("pooler"):
      pooled = _dense(config, firsts, config.hidden_size, activation=tf.tanh)
  return PretrainingLogits(_masked_lm_head(config, masked, embedding_table),
                           _next_sentence_head(config, pooled))


class _Outputs(NamedTuple):
  """Where the last layer is wanted.

  Attributes:
    positions: int32 [B, Q], into each sequence.
    is_real: bool [B, Q], False for those to leave out; None for none.
  """
  positions: tf.Tensor
  is_real: Optional[tf.Tensor]


def _masked_lm_head(config: BertConfig, hidden: tf.Tensor,
                    embedding_table: tf.Tensor) -> tf.Tensor:
  """Scores [N, H] against the word embeddings; float32 [N, V]."""
  with tf1.variable_scope("cls/predictions"):
    with tf1.variable_scope("transform"):
      hidden = _dense(config, hidden, config.hidden_size,
                      activation=config.activation)
      hidden = _layer_norm(hidden)
    output_bias = _variable("output_bias", [config.vocab_size],
                            tf1.zeros_initializer())
    logits = tf.matmul(hidden, embedding_table, transpose_b=True)
    return tf.nn.bias_add(logits, output_bias)


def next_sentence_logits(config: BertConfig, model: BertModel) -> tf.Tensor:
  """Scores whether the second segment follows the first.

  Returns:
    float32 [B, 2]: 0 is the next sentence, 1 a random one.
  """
  return _next_sentence_head(config, model.pooled_output)


def _next_sentence_head(config: BertConfig, pooled: tf.Tensor) -> tf.Tensor:
  """Scores [B, H]; float32 [B, 2]."""
  with tf1.variable_scope("cls/seq_relationship"):
    weights = _variable("output_weights", [2, config.hidden_size],
                        _weights(config))
    bias = _variable("output_bias", [2], tf1.zeros_initializer())
    return tf.nn.bias_add(tf.matmul(pooled, weights, transpose_b=True), bias)


def gather_positions(sequences: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
  """Picks the vectors at some positions of each sequence.

  Args:
    sequences: [B, S, H].
    positions: int32 [B, P].

  Returns:
    [B * P, H].
  """
  batch_size, seq_length, width = _shape(sequences)
  starts = tf.range(batch_size)[:, tf.newaxis] * seq_length  # [B, 1]
  return tf.gather(tf.reshape(sequences, [-1, width]),
                   tf.reshape(positions + starts, [-1]))


@tf.custom_gradient
def gelu(x: tf.Tensor):
  """Applies the tanh form of GELU (Hendrycks and Gimpel, arXiv 1606.08415).

  0.5 x (1 + tanh(u)) is x sigmoid(2 u), which takes fewer passes over memory,
  and so does the gradient in closed form.

  Args:
    x: float32, any shape.

  Returns:
    float32, the same shape.
  """
  slope = 2 * math.sqrt(2 / math.pi)
  bend = 0.044715 * slope
  square = x * x
  gate = tf.sigmoid(x * (slope + bend * square))

  def gradient(upstream):
    through_gate = tf.raw_ops.SigmoidGrad(y=gate, dy=upstream * x)
    return upstream * gate + through_gate * (slope + 3 * bend * square)

  return x * gate, gradient


def _fused_gelu(x: tf.Tensor) -> tf.Tensor:
  """Applies the same function in the form that TensorFlow recognizes.

  On CPUs its graph rewrite makes one kernel of this and the matrix product in
  front of it, as long as no gradient asks for what is in between.
  """
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
  return 0.5 * x * (1.0 + tf.tanh(inner))


_ACTIVATIONS: Dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": gelu,
    "relu": tf.nn.relu,
    "tanh": tf.tanh,
    "linear": tf.identity,
}
_FUSED_ACTIVATIONS = {"gelu": _fused_gelu}


class _InferenceConfig(BertConfig):
  """A model that is not trained: its activations need no gradient."""

  @property
  def activation(self) -> Callable[[tf.Tensor], tf.Tensor]:
    return _FUSED_ACTIVATIONS.get(self.hidden_act) or super().activation


def _for_inference(config: BertConfig) -> BertConfig:
  """Returns a config without dropout, and with activations that fuse."""
  return _InferenceConfig(**dict(
      vars(config), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


def _embed(config: BertConfig, input_ids: tf.Tensor,
           token_type_ids: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
  """Sums word, segment and position embeddings.

  Returns:
    The word embeddings, float32 [V, H], and the sum, float32 [B, S, H].
  """
  width = config.hidden_size
  word_table = _variable(
      "word_embeddings", [config.vocab_size, width], _weights(config))
  token_type_table = _variable(
      "token_type_embeddings", [config.type_vocab_size, width],
      _weights(config))
  position_table = _variable(
      "position_embeddings", [config.max_position_embeddings, width],
      _weights(config))
  embeddings = _lookup(word_table, input_ids)
  embeddings += _lookup(token_type_table, token_type_ids)
  embeddings += position_table[:_shape(input_ids)[1]]
  embeddings = _layer_norm(embeddings)
  return word_table, _dropout(embeddings, config.hidden_dropout_prob)


def _encode(config: BertConfig, embeddings: tf.Tensor, input_mask: tf.Tensor,
            outputs: Optional[_Outputs] = None) -> tf.Tensor:
  """Runs the layers of the encoder.

  Args:
    config: size of the model.
    embeddings: float32 [B, S, H].
    input_mask: int32 [B, S].
    outputs: where the last layer is wanted; None for everywhere.

  Returns:
    float32 [B * S, H], or [R, H] at R wanted places.
  """
  width = config.hidden_size
  # The same for every head and every token that attends: [B, 1, 1, S].
  mask_scores = _MASKED_SCORE * (
      1.0 - tf.cast(input_mask[:, tf.newaxis, tf.newaxis, :], tf.float32))
  # Matrices are faster than three axes in the dense layers.
  hidden = tf.reshape(embeddings, [-1, width])  # [B * S, H]
  for layer in range(config.num_hidden_layers):
    is_narrow = outputs and layer == config.num_hidden_layers - 1
    attending = hidden
    if is_narrow:
      attending = gather_positions(
          tf.reshape(hidden, tf.shape(embeddings)), outputs.positions)
    with tf1.variable_scope("layer_{}".format(layer)):
      with tf1.variable_scope("attention"):
        with tf1.variable_scope("self"):
          attended = _attend(config, attending, hidden, mask_scores)
        if is_narrow and outputs.is_real is not None:
          rows = tf.where(tf.reshape(outputs.is_real, [-1]))[:, 0]
          attended = tf.gather(attended, rows)
          attending = tf.gather(attending, rows)
        with tf1.variable_scope("output"):
          attended = _add_and_norm(config, attended, attending)
      with tf1.variable_scope("intermediate"):
        intermediate = _dense(config, attended, config.intermediate_size,
                              activation=config.activation)
      with tf1.variable_scope("output"):
        hidden = _add_and_norm(config, intermediate, attended)
  return hidden


def _attend(config: BertConfig, attending: tf.Tensor, hidden: tf.Tensor,
            mask_scores: tf.Tensor) -> tf.Tensor:
  """Applies self-attention, without the output projection.

  Args:
    config: size of the model.
    attending: float32 [B * Q, H], what asks: Q tokens of each sequence.
    hidden: float32 [B * S, H], what is asked.
    mask_scores: float32 [B, 1, 1, S], added to the scores.

  Returns:
    float32 [B * Q, H].
  """
  heads = config.num_attention_heads
  head_size = config.hidden_size // heads
  batch_size = _shape(mask_scores)[0]

  def project(name, inputs):
    projected = _dense(config, inputs, config.hidden_size, name=name)
    projected = tf.reshape(projected, [batch_size, -1, heads, head_size])
    return tf.transpose(projected, [0, 2, 1, 3])  # [B, A, Q or S, D]

  query = project("query", attending) * (1.0 / math.sqrt(head_size))
  key, value = project("key", hidden), project("value", hidden)
  scores = tf.matmul(query, key, transpose_b=True)  # [B, A, Q, S]
  weights = tf.nn.softmax(scores + mask_scores)
  weights = _dropout(weights, config.attention_probs_dropout_prob)
  context = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
  return tf.reshape(context, [-1, config.hidden_size])


def _add_and_norm(config: BertConfig, update: tf.Tensor,
                  residual: tf.Tensor) -> tf.Tensor:
  """Projects an update to [B * S, H], adds it to the residual, normalises."""
  update = _dense(config, update, config.hidden_size)
  update = _dropout(update, config.hidden_dropout_prob)
  return _layer_norm(update + residual)


def _dense(config: BertConfig, inputs: tf.Tensor, units: int,
           name: str = "dense",
           activation: Optional[Callable[[tf.Tensor], tf.Tensor]] = None
          ) -> tf.Tensor:
  """Applies a dense layer to a matrix."""
  with tf1.variable_scope(name):
    kernel = _variable("kernel", [inputs.shape[-1], units], _weights(config))
    bias = _variable("bias", [units], tf1.zeros_initializer())
  outputs = tf.nn.bias_add(tf.matmul(inputs, kernel), bias)
  return activation(outputs) if activation else outputs


def _layer_norm(inputs: tf.Tensor) -> tf.Tensor:
  """Normalises the last axis (Ba et al. 2016, arXiv 1607.06450)."""
  with tf1.variable_scope("LayerNorm"):
    width = [inputs.shape[-1]]
    beta = _variable("beta", width, tf1.zeros_initializer())
    gamma = _variable("gamma", width, tf1.ones_initializer())
  mean = tf.reduce_mean(inputs, axis=-1, keepdims=True)
  centred = inputs - mean
  variance = tf.reduce_mean(centred * centred, axis=-1, keepdims=True)
  scale = tf.math.rsqrt(variance + _LAYER_NORM_EPSILON)
  return centred * (scale * gamma) + beta


def _dropout(inputs: tf.Tensor, rate: float) -> tf.Tensor:
  """Drops values at random.

  What is dropped depends on the graph's seed, the place in the model and the
  global step alone, where there are a seed and a step: a run that goes on from
  a checkpoint drops what it would have dropped without the interruption.
  """
  if not rate:
    return inputs
  graph, step = tf1.get_default_graph(), tf1.train.get_global_step()
  if graph.seed is None or step is None:
    return tf.nn.dropout(inputs, rate=rate)
  # Scopes are numbered anew where a model is built twice in a graph.
  place = zlib.crc32(graph.get_name_scope().encode())
  seed = tf.random.experimental.stateless_fold_in(
      tf.constant([graph.seed, place], tf.int64), step)
  return tf.nn.experimental.stateless_dropout(inputs, rate, seed)


@tf.custom_gradient
def _lookup(table: tf.Tensor, ids: tf.Tensor):
  """Looks rows up, with a dense gradient.

  The table of words is the output matrix too, whose gradient is dense: two
  dense gradients add up faster than a dense and a sparse one, and all-reduce
  as one tensor.

  Args:
    table: float32 [N, H].
    ids: int32 [B, S].

  Returns:
    float32 [B, S, H].
  """
  rows = table.shape[0]

  def gradient(upstream):
    return tf.math.unsorted_segment_sum(upstream, ids, rows), None

  return tf.gather(table, ids), gradient


def _weights(config: BertConfig):
  return tf1.truncated_normal_initializer(stddev=config.initializer_range)


def _variable(name: str, shape: Sequence[int], initializer) -> tf.Tensor:
  return tf.convert_to_tensor(tf1.get_variable(
      name, shape=shape, initializer=initializer, use_resource=True))


def _shape(tensor: tf.Tensor) -> List:
  """Returns the lengths of the axes: numbers where static, else tensors."""
  dynamic = tf.shape(tensor)
  return [dynamic[axis] if length is None else length
          for axis, length in enumerate(tensor.shape.as_list())]


# --- Devices -----------------------------------------------------------------


def session_config(precision: str = "fp32", use_xla: bool = False,
                   gpu: Optional[int] = None) -> tf1.ConfigProto:
  """Returns a session's settings.

  Variables are float32 in any case; where the device has the arithmetic,
  TensorFlow rewrites the graph around them.

  Args:
    precision: one of `PRECISIONS`.
    use_xla: whether XLA compiles the graph, on a GPU.
    gpu: the GPU to use, None for TensorFlow's choice.
  """
  config = tf1.ConfigProto()
  config.gpu_options.allow_growth = True
  if gpu is not None:
    config.gpu_options.visible_device_list = str(gpu)
  rewrites = config.graph_options.rewrite_options
  if precision == "bf16" and _has_arithmetic(precision):
    rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
    os.environ.setdefault(_REWRITE_VARIABLE, "Tanh")
  elif precision == "fp16" and _has_arithmetic(precision):
    rewrites.auto_mixed_precision = rewrites.ON
  if use_xla and _has_gpu():
    config.graph_options.optimizer_options.global_jit_level = (
        tf1.OptimizerOptions.ON_1)
  return config


def choose_gpu(local_rank: int) -> Optional[int]:
  """Gives a process one GPU of its machine, and hides the others from it.

  Args:
    local_rank: the process among those of its machine.

  Returns:
    The GPU's number, None on a machine without.

  Raises:
    ValueError: there are fewer GPUs than processes.
  """
  gpus = tf.config.list_physical_devices("GPU")
  if not gpus:
    return None
  if local_rank >= len(gpus):
    raise ValueError(
        "process {} of this machine finds no GPU of its own, as there are {}: "
        "start no more processes than GPUs (-np, -H HOST:{})".format(
            local_rank, len(gpus), len(gpus)))
  tf.config.set_visible_devices(gpus[local_rank], "GPU")
  return local_rank


def warn_of_device(precision: str, use_xla: bool) -> None:
  """Says where the device does not do what `session_config` is asked for."""
  if not _has_arithmetic(precision):
    logging.warning(
        "--precision=%s: %s; running at fp32.", precision,
        "TensorFlow rewrites graphs to fp16 on a GPU" if _has_gpu() else
        "this CPU has no such arithmetic (bf16 wants avx512_bf16 or amx_bf16)")
  if use_xla and not _has_gpu():
    logging.warning("--use_xla: there is no GPU; nothing is compiled.")


def _has_gpu() -> bool:
  return bool(tf.config.list_physical_devices("GPU"))


def _has_arithmetic(precision: str) -> bool:
  """Says whether TensorFlow's rewrite and the device know a precision."""
  if precision != "bf16" or _has_gpu():
    return precision == "fp32" or precision == "fp16" and _has_gpu()
  try:
    with open("/proc/cpuinfo", encoding="ascii") as file:
      return re.search(r"\b(avx512_bf16|amx_bf16)\b", file.read()) is not None
  except OSError:
    return False


# --- Checkpoints -------------------------------------------------------------


class CheckpointMatch(NamedTuple):
  """Which variables of a model a checkpoint holds.

  Attributes:
    restored: those that it has.
    fresh: those that it has not.
    unused: what it has of a larger model.
  """
  restored: Tuple[str, ...]
  fresh: Tuple[str, ...]
  unused: Tuple[str, ...]


def match_checkpoint(config: BertConfig, checkpoint: str,
                     flag: str = "init_checkpoint",
                     layers: Optional[Sequence[int]] = None
                    ) -> CheckpointMatch:
  """Compares a checkpoint with the model of a config, by name and shape.

  Args:
    config: size of the model.
    checkpoint: path of a checkpoint, without `.index`.
    flag: name of the flag that named it, for errors.
    layers: layers of the checkpoint that become the model's layers 0, 1 and
      so on; None takes each layer as it is numbered.

  Returns:
    The names of the variables that both have, and that one of them has.

  Raises:
    ValueError: there is no such checkpoint, a variable has another shape in
      it, it has nothing of the model, or it lacks one of the layers.
  """
  found = checkpoint_shapes(checkpoint, flag)
  if layers is not None:
    if len(layers) != config.num_hidden_layers:
      raise ValueError(
          "--init_layers={} names {} layers, but --bert_config_file has "
          "num_hidden_layers {}: name as many".format(
              ",".join(map(str, layers)), len(layers),
              config.num_hidden_layers))
    present = {int(match.group(1)) for match in map(_LAYER.match, found)
               if match}
    for layer in layers:
      if layer not in present:
        raise ValueError(
            "--init_layers: {} has no layer {}, its layers are {}".format(
                checkpoint, layer, ", ".join(map(str, sorted(present)))
                or "none"))
    found = {name: found[source] for name, source in
             _sources(variable_shapes(config), layers).items()
             if source in found}
  wanted = variable_shapes(config)
  for name, shape in wanted.items():
    if name in found and found[name] != shape:
      raise ValueError(
          "--{}: {} in {} has shape {}, but --bert_config_file makes it {}; "
          "use the config that belongs to the checkpoint, or one of the same "
          "widths".format(flag, name, checkpoint, found[name], shape))
  restored = tuple(name for name in wanted if name in found)
  if not restored:
    raise ValueError(
        "--{}: {} has none of the model's {} variables ({}, ...); it is no "
        "BERT checkpoint".format(flag, checkpoint, len(wanted),
                                 next(iter(wanted))))
  return CheckpointMatch(
      restored, tuple(name for name in wanted if name not in found),
      tuple(name for name in found if name not in wanted
            and name.startswith(_MODEL_SCOPES)))


def variable_shapes(config: BertConfig) -> Dict[str, List[int]]:
  """Returns the shape of each variable of the model with both heads."""
  with tf.Graph().as_default():
    tokens = tf1.placeholder(tf.int32, [None, None])
    model = BertModel(config, False, tokens, tokens, tokens)
    masked_lm_logits(config, model, tokens)
    next_sentence_logits(config, model)
    return {variable.op.name: variable.shape.as_list()
            for variable in tf1.trainable_variables()}


def checkpoint_shapes(checkpoint: str, flag: str) -> Dict[str, List[int]]:
  """Returns the shape of each variable in a checkpoint.

  Raises:
    ValueError: there is no such checkpoint, or it is damaged.
  """
  try:
    shapes = dict(tf.train.list_variables(checkpoint))
  except (tf.errors.OpError, ValueError) as error:
    raise ValueError(
        "--{}: {} is not a readable checkpoint ({}); give the path without "
        "`.index` or `.data-...`, such as folder/bert_model.ckpt".format(
            flag, checkpoint, str(error).split("\n")[0]))
  return {name: shape for name, shape in shapes.items()
          if name.split("/")[-1] not in _OPTIMIZER_SLOTS}


def restore(checkpoint: str, layers: Optional[Sequence[int]] = None) -> None:
  """Makes the graph's variables start as in a checkpoint, where it has them.

  Args:
    checkpoint: one that `match_checkpoint` has compared.
    layers: as for `match_checkpoint`.
  """
  found = dict(tf.train.list_variables(checkpoint))
  sources = _sources(
      [variable.op.name for variable in tf1.trainable_variables()], layers)
  # A layer may be taken twice, which one map from names to names cannot say.
  for name, source in sources.items():
    if source in found:
      tf1.train.init_from_checkpoint(checkpoint, {source: name})


def write_release(config: BertConfig, checkpoint: str, path: str) -> None:
  """Writes the model's variables alone, as Google's releases hold them.

  Args:
    config: size of the model.
    checkpoint: one that holds every variable, and slots perhaps.
    path: the checkpoint to write, without `.index`.
  """
  reader = tf.train.load_checkpoint(checkpoint)
  names = sorted(variable_shapes(config))
  with tf.Graph().as_default(), tf1.Session(
      config=tf1.ConfigProto(device_count={"GPU": 0})) as session:
    values = [tf1.placeholder(reader.get_tensor(name).dtype) for name in names]
    session.run(
        tf.raw_ops.SaveV2(
            prefix=path, tensor_names=names,
            shape_and_slices=[""] * len(names), tensors=values),
        {value: reader.get_tensor(name)
         for name, value in zip(names, values)})


def summarize(names: Sequence[str]) -> str:
  """Returns the parts of the model that variables belong to, with counts."""
  parts = collections.Counter(
      (_LAYER.match(name) or _PART.match(name)).group(0) for name in names)
  return ", ".join("{} ({})".format(part, count)
                   for part, count in parts.items())


def _sources(names: Iterable[str], layers: Optional[Sequence[int]]
            ) -> Dict[str, str]:
  """Returns for each variable the name that it has in a checkpoint."""
  return {
      name: name if layers is None else _LAYER.sub(
          lambda match: "{}{}".format(
              match.group(0)[:-len(match.group(1))],
              layers[int(match.group(1))]), name)
      for name in names}
