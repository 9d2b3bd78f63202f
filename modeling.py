"""BERT (Devlin et al. 2018, arXiv 1810.04805): config, encoder and heads.

Builds `tf.compat.v1` graphs for CPU, GPU and TPU. Variables have the names of
Google's checkpoints. Classes and functions have BERT's names and signatures.

Dimensions:
  B: sequences in a batch
  S: tokens in a sequence
  P: output positions in a sequence
  R: selected output positions in a batch
  V: tokens in the vocabulary
  H: hidden size
  A: attention heads
  D: size of one head, H / A
"""

import contextlib
import copy
import dataclasses
import functools
import json
import math
from typing import (Any, Callable, Dict, List, Mapping, NamedTuple, Optional,
                    Sequence, Tuple, Union)
import zlib

import tensorflow as tf
import tensorflow.compat.v1 as tf1

Activation = Callable[[tf.Tensor], tf.Tensor]
# Takes shape and dtype.
Initializer = Callable[..., tf.Tensor]

# Graph collection of scalar integers that dropout mixes into its seed, so that
# replicas of a graph, such as the cores of a TPU, drop different values.
DROPOUT_SEEDS = "dropout_seeds"
# Graph collection of dropout's copy of the global step, on the host.
_STEP = "dropout_step"
_HOST = "/device:CPU:0"

_LAYER_NORM_EPSILON = 1e-12
# Added to the attention scores of padding.
_MASKED_SCORE = -10000.0
# Bound of GELU's input in float16: its square is finite, its sigmoid 0 or 1.
_MAX_GELU_INPUT = 40.0


# --- Configuration -----------------------------------------------------------


@dataclasses.dataclass
class BertConfig:
  """Size of a model; the fields of Google's `bert_config.json`.

  Attributes:
    vocab_size: V.
    hidden_size: H.
    num_hidden_layers: layers in the encoder.
    num_attention_heads: A; divides H.
    intermediate_size: units of the feed-forward layers.
    hidden_act: activation of the feed-forward layers and the masked-LM head,
      as for `get_activation`.
    hidden_dropout_prob: dropout of embeddings and layer outputs in training.
    attention_probs_dropout_prob: dropout of attention weights in training.
    max_position_embeddings: the longest sequence that the model can read.
    type_vocab_size: number of segments.
    initializer_range: standard deviation of newly initialised weights.
  """
  vocab_size: int
  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  intermediate_size: int = 3072
  hidden_act: Union[str, Activation, None] = "gelu"
  hidden_dropout_prob: float = 0.1
  attention_probs_dropout_prob: float = 0.1
  max_position_embeddings: int = 512
  type_vocab_size: int = 16
  initializer_range: float = 0.02

  @classmethod
  def from_dict(cls, json_object: Mapping[str, Any]) -> "BertConfig":
    """Returns the config with the values of a dict.

    Like BERT's method, keeps unknown keys as attributes and checks nothing:
    `BertModel` refuses impossible sizes.
    """
    vocab_size: Any = json_object.get("vocab_size")
    config = cls(vocab_size)
    config.__dict__.update(json_object)
    return config

  @classmethod
  def from_json_file(cls, json_file: str) -> "BertConfig":
    """Reads a `bert_config.json`.

    Raises:
      tf.errors.OpError: if the file cannot be read.
      ValueError: if the file is not JSON.
    """
    with tf.io.gfile.GFile(json_file) as file:
      return cls.from_dict(json.loads(file.read()))

  def to_dict(self) -> Dict[str, Any]:
    """Returns a copy of all attributes, by name."""
    return copy.deepcopy(self.__dict__)

  def to_json_string(self) -> str:
    """Returns the text of a `bert_config.json`."""
    return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


@tf.custom_gradient
def gelu(x: tf.Tensor) -> Tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
  """Applies the tanh form of GELU (Hendrycks and Gimpel, arXiv 1606.08415).

  Computes 0.5 x (1 + tanh(u)) as x sigmoid(2 u), and the gradient in closed
  form: both take fewer passes over memory.
  """
  linear = 2 * math.sqrt(2 / math.pi)
  cubic = 0.044715 * linear
  bounded = x
  if x.dtype == tf.float16:
    bounded = tf.clip_by_value(x, -_MAX_GELU_INPUT, _MAX_GELU_INPUT)
  square = bounded * bounded
  gate = tf.sigmoid(bounded * (linear + cubic * square))

  def gradient(upstream):
    through_gate = tf.raw_ops.SigmoidGrad(y=gate, dy=upstream * x)
    return upstream * gate + through_gate * (linear + 3 * cubic * square)

  return x * gate, gradient


def _fused_gelu(x: tf.Tensor) -> tf.Tensor:
  """Applies GELU in the form that TensorFlow's graph rewrite recognizes.

  On CPUs the rewrite fuses GELU with the matrix product before it, unless a
  gradient needs the values in between.
  """
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
  return 0.5 * x * (1.0 + tf.tanh(inner))


# Other libraries call the tanh form gelu_new or gelu_pytorch_tanh.
_ACTIVATIONS: Dict[str, Optional[Activation]] = {
    "gelu": gelu, "gelu_new": gelu, "gelu_pytorch_tanh": gelu, "linear": None,
    "relu": tf.nn.relu, "silu": tf.nn.silu, "swish": tf.nn.silu,
    "tanh": tf.tanh}


def get_activation(activation_string: Union[str, Activation, None]
                  ) -> Optional[Activation]:
  """Returns the activation function of a name; None for linear.

  An empty name and None mean linear; a function is returned unchanged.

  Raises:
    ValueError: if no activation has this name.
  """
  if callable(activation_string) or not activation_string:
    return activation_string or None
  name = str(activation_string).lower()
  if name not in _ACTIVATIONS:
    raise ValueError("hidden_act is {!r}; it must be one of {}".format(
        activation_string, ", ".join(sorted(_ACTIVATIONS))))
  return _ACTIVATIONS[name]


# --- The encoder -------------------------------------------------------------


class BertModel:
  """The encoder and pooler over one batch.

  Example:
    config = modeling.BertConfig.from_json_file("student/bert_config.json")
    model = modeling.BertModel(config, True, input_ids, input_mask, segment_ids)
    scores = tf1.layers.dense(model.get_pooled_output(), num_labels)
  """

  def __init__(self, config: BertConfig, is_training: bool,
               input_ids: tf.Tensor, input_mask: Optional[tf.Tensor] = None,
               token_type_ids: Optional[tf.Tensor] = None,
               use_one_hot_embeddings: bool = False,
               scope: Optional[str] = None,
               output_positions: Optional[tf.Tensor] = None,
               output_slots: Optional[tf.Tensor] = None,
               has_pooler: bool = True,
               compute_type: tf.DType = tf.float32, for_cpu: bool = False):
    """Builds the graph.

    Args:
      config: size of the model; not modified.
      is_training: whether to apply dropout.
      input_ids: int32 [B, S], token ids.
      input_mask: int32 [B, S], 1 for a token and 0 for padding; None means no
        padding.
      token_type_ids: int32 [B, S], segments; None means segment 0.
      use_one_hot_embeddings: whether to look up token ids by a product with
        one-hot vectors, which is faster on TPUs.
      scope: variable scope; None means "bert", or "bert_1" if "bert" is taken.
      output_positions: int32 [B, P], positions in each sequence. The last layer
        is computed only at these and, for the pooler, at the first tokens; None
        means all positions.
      output_slots: int32 [R], indices of the output positions to compute, in
        the order of the flattened [B * P]; None computes all output positions
        and keeps static shapes static.
      has_pooler: whether to build the pooler.
      compute_type: dtype of the encoder's arithmetic and of all outputs except
        the embedding table. Layer normalisation and the softmax of attention
        run in float32. Variables are float32, unless a custom getter gives the
        matrices the compute type.
      for_cpu: whether the graph runs on a CPU, where TensorFlow fuses GELU with
        the matrix product before it if nothing is trained.
    """
    assert output_slots is None or output_positions is not None
    config = _config_for(config, is_training, for_cpu)
    batch_size, seq_length = get_shape_list(input_ids, expected_rank=2)
    if input_mask is None:
      input_mask = tf.ones([batch_size, seq_length], tf.int32)
    if token_type_ids is None:
      token_type_ids = tf.zeros([batch_size, seq_length], tf.int32)
    if output_positions is not None and has_pooler:
      output_positions, output_slots = _with_first_tokens(
          output_positions, output_slots)
    self.pooled_output = None
    with tf1.variable_scope(scope, default_name="bert"):
      with tf1.variable_scope("embeddings"):
        self.embedding_table, self.embedding_output = _embed(
            config, input_ids, token_type_ids, use_one_hot_embeddings,
            compute_type)
      with tf1.variable_scope("encoder"):
        *layers, last = _encode(
            config, self.embedding_output,
            _mask_scores(input_mask[:, tf.newaxis, :]), output_positions,
            output_slots)
        shape = [batch_size, seq_length, config.hidden_size]
        if output_positions is None:
          last = tf.reshape(last, shape)
          first_tokens = last[:, 0]
        elif has_pooler:
          first_tokens, last = _split_first_tokens(
              last, output_positions, output_slots)
        self.sequence_output = last
        self.all_encoder_layers = [
            *(tf.reshape(layer, shape) for layer in layers), last]
      if has_pooler:
        with tf1.variable_scope("pooler"):
          self.pooled_output = _dense(
              first_tokens, config.hidden_size, config.initializer_range,
              activation=tf.tanh)

  def get_pooled_output(self) -> Optional[tf.Tensor]:
    """Returns the pooled first tokens, [B, H]; None without a pooler."""
    return self.pooled_output

  def get_sequence_output(self) -> tf.Tensor:
    """Returns the last layer, [B, S, H], or [R, H] at output positions."""
    return self.sequence_output

  def get_all_encoder_layers(self) -> List[tf.Tensor]:
    """Returns all layers, each [B, S, H]; the last is the sequence output."""
    return self.all_encoder_layers

  def get_embedding_output(self) -> tf.Tensor:
    """Returns the input of the first layer, [B, S, H]."""
    return self.embedding_output

  def get_embedding_table(self) -> tf.Tensor:
    """Returns the word embeddings, float32 [V, H]."""
    return self.embedding_table


def _with_first_tokens(
    positions: tf.Tensor, slots: Optional[tf.Tensor]
) -> Tuple[tf.Tensor, Optional[tf.Tensor]]:
  """Adds each sequence's first token to the output positions.

  Args:
    positions: int32 [B, P], positions in each sequence.
    slots: int32 [R], indices of the positions to compute; None means all.

  Returns:
    Positions, int32 [B, 1 + P], and slots, int32 [B + R]: the first tokens,
    then the others.
  """
  batch_size, num_positions = get_shape_list(positions)
  with_first = tf.pad(positions, [[0, 0], [1, 0]])
  if slots is None:
    return with_first, None
  return with_first, tf.concat([
      tf.range(batch_size) * (1 + num_positions),
      slots + slots // num_positions + 1], axis=0)


def _split_first_tokens(hidden: tf.Tensor, positions: tf.Tensor,
                        slots: Optional[tf.Tensor]
                       ) -> Tuple[tf.Tensor, tf.Tensor]:
  """Splits [B + R, H] into first tokens, [B, H], and the others, [R, H].

  Args:
    hidden: [B + R, H].
    positions: as returned by `_with_first_tokens`.
    slots: as returned by `_with_first_tokens`.
  """
  batch_size, num_positions = get_shape_list(positions)
  if slots is None:
    hidden_size = hidden.shape[-1]
    hidden = tf.reshape(hidden, [batch_size, num_positions, hidden_size])
    return hidden[:, 0], tf.reshape(hidden[:, 1:], [-1, hidden_size])
  return hidden[:batch_size], hidden[batch_size:]


def _config_for(config: BertConfig, is_training: bool,
                for_cpu: bool) -> BertConfig:
  """Copies a config; outside training, without dropout and with fused GELU."""
  if is_training:
    return dataclasses.replace(config)
  activation = config.hidden_act
  if for_cpu and get_activation(activation) is gelu:
    activation = _fused_gelu
  return dataclasses.replace(
      config, hidden_act=activation, hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0)


def _embed(config: BertConfig, input_ids: tf.Tensor, token_type_ids: tf.Tensor,
           use_one_hot_embeddings: bool, compute_type: tf.DType
          ) -> Tuple[tf.Tensor, tf.Tensor]:
  """Sums the embeddings of token ids, segments and positions.

  Returns:
    The word embeddings, float32 [V, H], and the normalised sum, [B, S, H] in
    the compute type.
  """
  embeddings, word_table = embedding_lookup(
      input_ids, config.vocab_size, config.hidden_size,
      config.initializer_range,
      use_one_hot_embeddings=use_one_hot_embeddings)
  embeddings = _add_embeddings(
      tf.cast(embeddings, tf.float32), token_type_ids, config.type_vocab_size,
      config.max_position_embeddings, config.initializer_range)
  embeddings = tf.cast(layer_norm(embeddings), compute_type)
  return word_table, dropout(embeddings, config.hidden_dropout_prob)


def _add_embeddings(
    embeddings: tf.Tensor, token_type_ids: Optional[tf.Tensor],
    type_vocab_size: int, max_position_embeddings: Optional[int],
    initializer_range: float,
    names: Sequence[str] = ("token_type_embeddings", "position_embeddings")
) -> tf.Tensor:
  """Adds the embeddings of segments and positions to [B, S, H].

  Args:
    embeddings: [B, S, H].
    token_type_ids: int32 [B, S]; None adds no segments.
    type_vocab_size: number of segments.
    max_position_embeddings: the longest S; None adds no positions.
    initializer_range: standard deviation of new weights.
    names: variable names of the two tables.
  """
  _, seq_length, width = get_shape_list(embeddings, expected_rank=3)
  initializer = create_initializer(initializer_range)
  if token_type_ids is not None:
    table = _variable(names[0], [type_vocab_size, width], initializer)
    embeddings += _gather_rows(table, token_type_ids)
  if max_position_embeddings is not None:
    table = _variable(names[1], [max_position_embeddings, width], initializer)
    embeddings += table[:seq_length]
  return embeddings


def _mask_scores(mask: tf.Tensor) -> tf.Tensor:
  """Returns the additive attention mask of all heads.

  Args:
    mask: [B, Q or 1, S], 1 where a query may attend to a token, else 0.

  Returns:
    float32 [B, 1, Q or 1, S].
  """
  return _MASKED_SCORE * (1.0 - tf.cast(mask[:, tf.newaxis], tf.float32))


def _encode(config: BertConfig, embeddings: tf.Tensor,
            mask_scores: Optional[tf.Tensor],
            output_positions: Optional[tf.Tensor] = None,
            output_slots: Optional[tf.Tensor] = None) -> List[tf.Tensor]:
  """Runs the layers of the encoder over embeddings, [B, S, H].

  Args:
    config: size of the layers.
    embeddings: [B, S, H].
    mask_scores: as returned by `_mask_scores`; None masks nothing.
    output_positions: as for `BertModel`.
    output_slots: as for `BertModel`.

  Returns:
    The output of each layer, [B * S, H]; of the last layer [R, H], if there are
    output positions.

  Raises:
    ValueError: if A does not divide H.
  """
  heads = config.num_attention_heads
  if config.hidden_size % heads:
    raise ValueError(
        "hidden_size {} is not a multiple of num_attention_heads {}".format(
            config.hidden_size, heads))
  batch_size = get_shape_list(embeddings)[0]
  # Dense layers are faster on matrices than on tensors with three axes.
  hidden = tf.reshape(embeddings, [-1, config.hidden_size])  # [B * S, H]
  layers = []
  for layer in range(config.num_hidden_layers):
    is_narrow = (output_positions is not None
                 and layer == config.num_hidden_layers - 1)
    residual = hidden
    if is_narrow:
      residual = gather_positions(
          tf.reshape(hidden, tf.shape(embeddings)), output_positions)
    with tf1.variable_scope("layer_{}".format(layer)):
      with tf1.variable_scope("attention"):
        with tf1.variable_scope("self"):
          context = _attention(
              residual, hidden, mask_scores, batch_size, heads,
              config.hidden_size // heads,
              config.attention_probs_dropout_prob, config.initializer_range)
        if is_narrow and output_slots is not None:
          context = _gather_rows(context, output_slots)  # [R, H]
          residual = _gather_rows(residual, output_slots)
        with tf1.variable_scope("output"):
          attention = _add_and_norm(config, context, residual)
      with tf1.variable_scope("intermediate"):
        intermediate = _dense(
            attention, config.intermediate_size, config.initializer_range,
            activation=get_activation(config.hidden_act))
      with tf1.variable_scope("output"):
        hidden = _add_and_norm(config, intermediate, attention)
    layers.append(hidden)
  return layers


def _attention(query_inputs: tf.Tensor, inputs: tf.Tensor,
               mask_scores: Optional[tf.Tensor],
               batch_size: Union[int, tf.Tensor], heads: int, head_size: int,
               dropout_prob: float, initializer_range: float,
               activations: Sequence[Optional[Activation]] = (None,) * 3
              ) -> tf.Tensor:
  """Applies multi-head attention, without the output projection.

  Args:
    query_inputs: [B * Q, H], projected to queries.
    inputs: [B * S, H], projected to keys and values.
    mask_scores: as returned by `_mask_scores`; None masks nothing.
    batch_size: B.
    heads: A.
    head_size: D.
    dropout_prob: dropout of the attention weights.
    initializer_range: standard deviation of new weights.
    activations: activations of queries, keys and values.

  Returns:
    [B * Q, A * D].
  """
  def project(name, matrix, activation):
    projected = _dense(matrix, heads * head_size, initializer_range, name=name,
                       activation=activation)
    projected = tf.reshape(projected, [batch_size, -1, heads, head_size])
    return tf.transpose(projected, [0, 2, 1, 3])  # [B, A, Q or S, D]

  queries, keys, values = map(project, ("query", "key", "value"),
                              (query_inputs, inputs, inputs), activations)
  scores = tf.matmul(queries * (1.0 / math.sqrt(head_size)), keys,
                     transpose_b=True)  # [B, A, Q, S]
  scores = tf.cast(scores, tf.float32)
  weights = tf.nn.softmax(
      scores if mask_scores is None else scores + mask_scores)
  weights = dropout(tf.cast(weights, values.dtype), dropout_prob)
  context = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])
  return tf.reshape(context, [-1, heads * head_size])


def _add_and_norm(config: BertConfig, update: tf.Tensor,
                  residual: tf.Tensor) -> tf.Tensor:
  """Projects an update to [N, H], adds the residual and normalises the sum."""
  update = _dense(update, config.hidden_size, config.initializer_range)
  update = dropout(update, config.hidden_dropout_prob)
  return layer_norm(update + residual)


# --- Parts of the encoder under BERT's public names ---------------------------


def embedding_lookup(
    input_ids: tf.Tensor, vocab_size: int, embedding_size: int = 128,
    initializer_range: float = 0.02,
    word_embedding_name: str = "word_embeddings",
    use_one_hot_embeddings: bool = False) -> Tuple[tf.Tensor, tf.Tensor]:
  """Looks up the embeddings of token ids.

  Args:
    input_ids: int32 [B, S] or [B, S, N].
    vocab_size: V.
    embedding_size: E.
    initializer_range: standard deviation of new weights.
    word_embedding_name: name of the table.
    use_one_hot_embeddings: as for `BertModel`.

  Returns:
    The embeddings, float32 [B, S, E] or [B, S, N * E], and the table, float32
    [V, E].
  """
  table = _variable(word_embedding_name, [vocab_size, embedding_size],
                    create_initializer(initializer_range))
  lookup = _one_hot_lookup if use_one_hot_embeddings else _gather_rows
  embeddings = lookup(table, input_ids)
  if input_ids.shape.rank == 3:
    batch_size, seq_length, num_ids = get_shape_list(input_ids)
    embeddings = tf.reshape(
        embeddings, [batch_size, seq_length, num_ids * embedding_size])
  return embeddings, table


def embedding_postprocessor(
    input_tensor: tf.Tensor, use_token_type: bool = False,
    token_type_ids: Optional[tf.Tensor] = None,
    token_type_vocab_size: int = 16,
    token_type_embedding_name: str = "token_type_embeddings",
    use_position_embeddings: bool = True,
    position_embedding_name: str = "position_embeddings",
    initializer_range: float = 0.02, max_position_embeddings: int = 512,
    dropout_prob: float = 0.1) -> tf.Tensor:
  """Adds segments and positions, then applies layer norm and dropout.

  Args:
    input_tensor: float32 [B, S, H].
    use_token_type: whether to add the embeddings of segments.
    token_type_ids: int32 [B, S]; needed with `use_token_type`.
    token_type_vocab_size: number of segments.
    token_type_embedding_name: name of the table of segments.
    use_position_embeddings: whether to add the embeddings of positions.
    position_embedding_name: name of the table of positions.
    initializer_range: standard deviation of new weights.
    max_position_embeddings: the longest S.
    dropout_prob: dropout of the result.

  Returns:
    float32 [B, S, H].

  Raises:
    ValueError: if the rank of the input is not 3, or `token_type_ids` is
      missing.
  """
  if use_token_type and token_type_ids is None:
    raise ValueError("use_token_type needs token_type_ids")
  return layer_norm_and_dropout(_add_embeddings(
      input_tensor, token_type_ids if use_token_type else None,
      token_type_vocab_size,
      max_position_embeddings if use_position_embeddings else None,
      initializer_range, (token_type_embedding_name, position_embedding_name)),
                                dropout_prob)


def create_attention_mask_from_input_mask(from_tensor: tf.Tensor,
                                          to_mask: tf.Tensor) -> tf.Tensor:
  """Returns the attention mask: which query may attend to which token.

  Args:
    from_tensor: [B, Q, ...].
    to_mask: int32 [B, S], 1 for a token and 0 for padding.

  Returns:
    float32 [B, Q, S], 1 or 0.
  """
  batch_size, num_queries, *_ = get_shape_list(
      from_tensor, expected_rank=[2, 3])
  return tf.ones([batch_size, num_queries, 1]) * tf.cast(
      to_mask[:, tf.newaxis, :], tf.float32)


def attention_layer(
    from_tensor: tf.Tensor, to_tensor: tf.Tensor,
    attention_mask: Optional[tf.Tensor] = None, num_attention_heads: int = 1,
    size_per_head: int = 512, query_act: Optional[Activation] = None,
    key_act: Optional[Activation] = None,
    value_act: Optional[Activation] = None,
    attention_probs_dropout_prob: float = 0.0,
    initializer_range: float = 0.02, do_return_2d_tensor: bool = False,
    batch_size: Union[int, tf.Tensor, None] = None,
    from_seq_length: Union[int, tf.Tensor, None] = None,
    to_seq_length: Union[int, tf.Tensor, None] = None) -> tf.Tensor:
  """Applies multi-head attention, without the output projection.

  Args:
    from_tensor: [B, Q, W] or [B * Q, W], projected to queries.
    to_tensor: [B, S, W] or [B * S, W], projected to keys and values.
    attention_mask: int32 or float32 [B, Q, S], 1 where a query may attend to a
      token; None masks nothing.
    num_attention_heads: A.
    size_per_head: D.
    query_act: activation of the queries.
    key_act: activation of the keys.
    value_act: activation of the values.
    attention_probs_dropout_prob: dropout of the attention weights.
    initializer_range: standard deviation of new weights.
    do_return_2d_tensor: whether to return a matrix.
    batch_size: B; required if the inputs are matrices.
    from_seq_length: Q; required if the inputs are matrices.
    to_seq_length: S; required if the inputs are matrices.

  Returns:
    [B, Q, A * D], or [B * Q, A * D].

  Raises:
    ValueError: if the ranks differ, or the sizes of matrices are missing.
  """
  from_shape = get_shape_list(from_tensor, expected_rank=[2, 3])
  assert_rank(to_tensor, len(from_shape))
  if len(from_shape) == 3:
    batch_size, from_seq_length = from_shape[:2]
  elif batch_size is None or from_seq_length is None or to_seq_length is None:
    raise ValueError("matrices need batch_size, from_seq_length and "
                     "to_seq_length")
  context = _attention(
      reshape_to_matrix(from_tensor), reshape_to_matrix(to_tensor),
      None if attention_mask is None else _mask_scores(attention_mask),
      batch_size, num_attention_heads, size_per_head,
      attention_probs_dropout_prob, initializer_range,
      (query_act, key_act, value_act))
  if do_return_2d_tensor:
    return context
  return tf.reshape(context, [batch_size, from_seq_length,
                              num_attention_heads * size_per_head])


def transformer_model(
    input_tensor: tf.Tensor, attention_mask: Optional[tf.Tensor] = None,
    hidden_size: int = 768, num_hidden_layers: int = 12,
    num_attention_heads: int = 12, intermediate_size: int = 3072,
    intermediate_act_fn: Optional[Activation] = gelu,
    hidden_dropout_prob: float = 0.1,
    attention_probs_dropout_prob: float = 0.1,
    initializer_range: float = 0.02, do_return_all_layers: bool = False
) -> Union[tf.Tensor, List[tf.Tensor]]:
  """Runs the layers of the encoder.

  Args:
    input_tensor: float32 [B, S, H].
    attention_mask: as for `attention_layer`.
    hidden_size: H.
    num_hidden_layers: layers.
    num_attention_heads: A; divides H.
    intermediate_size: units of the feed-forward layers.
    intermediate_act_fn: activation of the feed-forward layers.
    hidden_dropout_prob: dropout of layer outputs.
    attention_probs_dropout_prob: dropout of attention weights.
    initializer_range: standard deviation of new weights.
    do_return_all_layers: whether to return the outputs of all layers.

  Returns:
    The output of the last layer, [B, S, H], or of each layer.

  Raises:
    ValueError: if the input is not [B, S, H], or A does not divide H.
  """
  shape = get_shape_list(input_tensor, expected_rank=3)
  if shape[2] != hidden_size:
    raise ValueError("the width of the input is {}, hidden_size is {}".format(
        shape[2], hidden_size))
  layers = _encode(
      BertConfig(
          1, hidden_size, num_hidden_layers, num_attention_heads,
          intermediate_size, intermediate_act_fn, hidden_dropout_prob,
          attention_probs_dropout_prob, initializer_range=initializer_range),
      input_tensor,
      None if attention_mask is None else _mask_scores(attention_mask))
  outputs = [reshape_from_matrix(layer, shape) for layer in layers]
  return outputs if do_return_all_layers else outputs[-1]


# --- The heads ---------------------------------------------------------------


class PretrainingLogits(NamedTuple):
  """The logits of both heads.

  Attributes:
    masked_lm: float32 [R, V], a row for each selected position.
    next_sentence: float32 [B, 2], 0 for the next sentence and 1 for a random
      one; None without this head.
    hidden_states: float32 [R, H]; `masked_lm` is their product with the word
      embeddings, plus the bias.
  """
  masked_lm: tf.Tensor
  next_sentence: Optional[tf.Tensor]
  hidden_states: tf.Tensor


def pretraining_logits(config: BertConfig, is_training: bool,
                       input_ids: tf.Tensor, input_mask: tf.Tensor,
                       token_type_ids: tf.Tensor,
                       masked_lm_positions: tf.Tensor,
                       masked_lm_slots: Optional[tf.Tensor] = None,
                       has_next_sentence: bool = True,
                       compute_type: tf.DType = tf.float32,
                       for_cpu: bool = False) -> PretrainingLogits:
  """Computes the logits of masked tokens and next sentences.

  The last layer runs only at the positions that a head reads.

  Args:
    config: as for `BertModel`.
    is_training: as for `BertModel`.
    input_ids: as for `BertModel`.
    input_mask: as for `BertModel`.
    token_type_ids: as for `BertModel`.
    masked_lm_positions: as `output_positions` of `BertModel`.
    masked_lm_slots: as `output_slots` of `BertModel`.
    has_next_sentence: whether to build the next-sentence head.
    compute_type: as for `BertModel`.
    for_cpu: as for `BertModel`.
  """
  # The scope is named, so that a second model shares the variables on reuse.
  model = BertModel(
      config, is_training, input_ids, input_mask, token_type_ids, scope="bert",
      output_positions=masked_lm_positions, output_slots=masked_lm_slots,
      has_pooler=has_next_sentence, compute_type=compute_type, for_cpu=for_cpu)
  hidden_states, masked_lm = _masked_lm_head(
      _config_for(config, is_training, for_cpu), model.get_sequence_output(),
      model.get_embedding_table(), for_cpu)
  next_sentence = None
  if has_next_sentence:
    next_sentence = _next_sentence_head(config, model.get_pooled_output())
  return PretrainingLogits(masked_lm, next_sentence, hidden_states)


def _masked_lm_head(config: BertConfig, hidden: tf.Tensor,
                    embedding_table: tf.Tensor, for_cpu: bool
                   ) -> Tuple[tf.Tensor, tf.Tensor]:
  """Transforms [R, H] and multiplies the result with the word embeddings.

  Computes logits in float32 where possible: 16 bits hold two or three digits of
  a logit. GPUs multiply 16-bit operands exactly in TF32. On CPUs only the
  product that returns bfloat16 is fast.

  Returns:
    The transformed hidden states, float32 [R, H], and logits, float32 [R, V].
  """
  with tf1.variable_scope("cls/predictions"):
    with tf1.variable_scope("transform"):
      hidden = _dense(hidden, config.hidden_size, config.initializer_range,
                      activation=get_activation(config.hidden_act))
      hidden = layer_norm(hidden)
    output_bias = _variable("output_bias", [config.vocab_size],
                            tf1.zeros_initializer())
    product_type = tf.float32
    if for_cpu and hidden.dtype == tf.bfloat16:
      product_type = tf.bfloat16
    logits = tf.matmul(
        *(tf.cast(operand, product_type)
          for operand in (hidden, embedding_table)), transpose_b=True)
    return tf.cast(hidden, tf.float32), tf.nn.bias_add(
        tf.cast(logits, tf.float32), output_bias)


def _next_sentence_head(config: BertConfig, pooled: tf.Tensor) -> tf.Tensor:
  """Returns the next-sentence logits, float32 [B, 2], of [B, H]."""
  with tf1.variable_scope("cls/seq_relationship"):
    weights = _variable("output_weights", [2, config.hidden_size],
                        create_initializer(config.initializer_range))
    bias = _variable("output_bias", [2], tf1.zeros_initializer())
    return tf.nn.bias_add(tf.matmul(
        tf.cast(pooled, tf.float32), weights, transpose_b=True), bias)


def create_initializer(initializer_range: float = 0.02) -> Initializer:
  """Returns the initializer of BERT's matrices, a truncated normal."""
  return tf1.truncated_normal_initializer(stddev=initializer_range)


def layer_norm(input_tensor: tf.Tensor,
               name: Optional[str] = None) -> tf.Tensor:
  """Normalises the last axis (Ba et al. 2016, arXiv 1607.06450) in float32."""
  with tf1.variable_scope(name, default_name="LayerNorm"):
    shape = [input_tensor.shape[-1]]
    beta = _variable("beta", shape, tf1.zeros_initializer())
    gamma = _variable("gamma", shape, tf1.ones_initializer())
  return _normalize(input_tensor, gamma, beta)


@tf.custom_gradient
def _normalize(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Tuple[
    tf.Tensor, Callable[[tf.Tensor], Tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
  """Normalises the last axis of [..., H], scales by gamma and adds beta.

  The gradient in closed form takes fewer passes over memory. Its sums over rows
  are products with vectors, which are faster on CPUs.
  """
  size = inputs.shape.as_list()[-1]

  def mean(values):
    return tf.reduce_sum(values, axis=-1, keepdims=True) / size

  centred = tf.cast(inputs, tf.float32)
  centred -= mean(centred)
  scale = tf.math.rsqrt(mean(centred * centred) + _LAYER_NORM_EPSILON)

  def gradient(upstream):
    upstream = tf.cast(upstream, tf.float32)
    slopes = upstream * gamma
    of_inputs = scale * (slopes - mean(slopes) - centred * (
        scale * scale * mean(slopes * centred)))
    of_gamma, of_beta = (
        tf.matmul(tf.reshape(factors, [1, -1]), tf.reshape(values, [-1, size]))
        for factors, values in ((scale, upstream * centred),
                                (tf.ones_like(scale), upstream)))
    return tf.cast(of_inputs, inputs.dtype), of_gamma[0], of_beta[0]

  return tf.cast(centred * (scale * gamma) + beta, inputs.dtype), gradient


def layer_norm_and_dropout(input_tensor: tf.Tensor,
                           dropout_prob: Optional[float],
                           name: Optional[str] = None) -> tf.Tensor:
  """Applies `layer_norm`, then `dropout`."""
  return dropout(layer_norm(input_tensor, name), dropout_prob)


def dropout(input_tensor: tf.Tensor,
            dropout_prob: Optional[float]) -> tf.Tensor:
  """Sets random values to 0 and scales up the others.

  In a graph with a seed and a global step, the choice depends only on the seed,
  the name scope, the step and the integers in the collection `DROPOUT_SEEDS`: a
  resumed run drops the same values as an uninterrupted run.
  """
  if not dropout_prob:
    return input_tensor
  graph = tf1.get_default_graph()
  if graph.seed is None or tf1.train.get_global_step() is None:
    return tf.nn.dropout(input_tensor, rate=dropout_prob)
  # The name scope differs where a model is built twice in a graph.
  scope_hash = zlib.crc32(graph.get_name_scope().encode())
  replica_seeds = tf1.get_collection(DROPOUT_SEEDS)
  # Random kernels read seeds from the host's memory; TPU cores have none.
  with contextlib.nullcontext() if replica_seeds else tf.device(_HOST):
    seed = tf.constant([graph.seed, scope_hash], tf.int64)
    for number in (_step_of(graph), *replica_seeds):
      seed = tf.random.experimental.stateless_fold_in(seed, number)
  # StatelessRandomUniformV2 takes a key and a counter instead of a seed.
  is_kept = tf.raw_ops.StatelessRandomUniform(
      shape=tf.shape(input_tensor), seed=seed,
      dtype=input_tensor.dtype) >= dropout_prob
  return tf.where(is_kept, input_tensor * (1 / (1 - dropout_prob)), 0)


def _step_of(graph: tf.Graph) -> tf.Tensor:
  """Returns a copy of the global step, made once per graph."""
  found = graph.get_collection(_STEP)
  if not found:
    with tf.control_dependencies(None):  # Outside of branches and loops.
      with tf.device(None):
        step = tf.convert_to_tensor(tf1.train.get_global_step())
      found = [tf.identity(step)]
    graph.add_to_collection(_STEP, found[0])
  return found[0]


def gather_positions(sequences: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
  """Gathers vectors of [B, S, H] at int32 [B, P]; returns [B * P, H]."""
  batch_size, seq_length, hidden_size = get_shape_list(sequences)
  starts = tf.range(batch_size)[:, tf.newaxis] * seq_length  # [B, 1]
  return _gather_rows(tf.reshape(sequences, [-1, hidden_size]),
                      tf.reshape(positions + starts, [-1]))


def get_shape_list(tensor: tf.Tensor,
                   expected_rank: Union[int, Sequence[int], None] = None,
                   name: Optional[str] = None) -> List[Any]:
  """Returns the length of each axis: an int if static, else a tensor.

  Raises:
    ValueError: if the rank is not among the expected ranks.
  """
  if expected_rank is not None:
    assert_rank(tensor, expected_rank, name)
  dynamic = tf.shape(tensor)
  return [dynamic[axis] if length is None else length
          for axis, length in enumerate(tensor.shape.as_list())]


def assert_rank(tensor: tf.Tensor, expected_rank: Union[int, Sequence[int]],
                name: Optional[str] = None) -> None:
  """Checks the number of axes.

  Raises:
    ValueError: if the rank is not among the expected ranks.
  """
  ranks = [expected_rank] if isinstance(expected_rank, int) else expected_rank
  if tensor.shape.rank not in ranks:
    raise ValueError("{} has shape {}; its rank must be {}".format(
        name or tensor.name, tensor.shape, " or ".join(map(str, ranks))))


def reshape_to_matrix(input_tensor: tf.Tensor) -> tf.Tensor:
  """Returns [..., H] as [N, H].

  Raises:
    ValueError: if there are fewer than two axes.
  """
  if input_tensor.shape.rank < 2:
    raise ValueError("{} has shape {}; its rank must be at least 2".format(
        input_tensor.name, input_tensor.shape))
  if input_tensor.shape.rank == 2:
    return input_tensor
  return tf.reshape(input_tensor, [-1, input_tensor.shape[-1]])


def reshape_from_matrix(output_tensor: tf.Tensor,
                        orig_shape_list: Sequence[Any]) -> tf.Tensor:
  """Restores the axes of a tensor that `reshape_to_matrix` reshaped."""
  if len(orig_shape_list) == 2:
    return output_tensor
  return tf.reshape(output_tensor, [*orig_shape_list[:-1],
                                    get_shape_list(output_tensor)[-1]])


def _dense(inputs: tf.Tensor, units: int, initializer_range: float,
           name: str = "dense", activation: Optional[Activation] = None
          ) -> tf.Tensor:
  """Applies a dense layer to a matrix, in the matrix's dtype."""
  with tf1.variable_scope(name):
    kernel = _variable("kernel", [inputs.shape[-1], units],
                       create_initializer(initializer_range))
    bias = _variable("bias", [units], tf1.zeros_initializer())
  outputs = tf.nn.bias_add(tf.matmul(inputs, tf.cast(kernel, inputs.dtype)),
                           tf.cast(bias, inputs.dtype))
  return activation(outputs) if activation else outputs


@tf.custom_gradient
def _gather_rows(matrix: tf.Tensor, indices: tf.Tensor) -> Tuple[
    tf.Tensor, Callable[[tf.Tensor], Tuple[tf.Tensor, None]]]:
  """Gathers rows of [N, H] at int32 indices, with a dense gradient.

  The decoder is tied to the word embeddings and has a dense gradient. Adding a
  dense gradient to it is faster than adding a sparse one, and the sum is
  all-reduced as one tensor. The gradient of `tf.gather` would also copy the
  table's shape from the GPU to the host.
  """
  num_rows, _ = get_shape_list(matrix)

  def gradient(upstream):
    return tf.math.unsorted_segment_sum(upstream, indices, num_rows), None

  return tf.gather(matrix, indices), gradient


def _one_hot_lookup(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
  """Looks up rows of [N, H] at int32 [B, S] by a matrix product."""
  num_rows, hidden_size = table.shape
  rows = tf.matmul(tf.one_hot(tf.reshape(ids, [-1]), num_rows), table)
  return tf.reshape(rows, get_shape_list(ids) + [hidden_size])


def _variable(name: str, shape: Sequence[int], initializer: Initializer
             ) -> tf.Tensor:
  return tf.convert_to_tensor(tf1.get_variable(
      name, shape=shape, initializer=initializer, use_resource=True))


def variable_shapes(config: BertConfig) -> Dict[str, List[int]]:
  """Returns the shape of each variable of the model with both heads."""
  return dict(_variable_shapes(config.to_json_string()))


@functools.lru_cache(maxsize=None)
def _variable_shapes(config_json: str) -> Dict[str, List[int]]:
  """Builds a model, in about a second, and lists its variables."""
  config = BertConfig.from_dict(json.loads(config_json))
  with tf.Graph().as_default():
    tokens = tf1.placeholder(tf.int32, [None, None])
    pretraining_logits(config, False, tokens, tokens, tokens, tokens)
    return {variable.op.name: variable.shape.as_list()
            for variable in tf1.trainable_variables()}


def get_assignment_map_from_checkpoint(
    tvars: Sequence[tf.Variable], init_checkpoint: str
) -> Tuple[Dict[str, str], Dict[str, int]]:
  """Finds the variables that a checkpoint holds under the same names.

  Returns:
    The map from names to names for `tf1.train.init_from_checkpoint`, and a dict
    whose keys are these names, with and without ":0".
  """
  names = {variable.name.split(":")[0] for variable in tvars}
  assignment_map = {
      name: name for name, _ in tf.train.list_variables(init_checkpoint)
      if name in names}
  return assignment_map, {
      key: 1 for name in assignment_map for key in (name, name + ":0")}
