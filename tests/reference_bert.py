"""Reference implementation of BERT, the student's loss and AdamW.

The code follows the formulas. Variables have the names of Google's checkpoints.
Results have the dtype of the variables: float64 in eager tests, float32 in the
graph of a benchmark. Only the names of the features come from the project.

Dimensions:
  B: sequences in a batch
  S: tokens in a sequence
  P: slots for masked tokens in a sequence
  V: tokens in the vocabulary
  A: attention heads
  D: size of one head
"""

import math

import numpy as np
import tensorflow as tf

from records import schema


def encoder_layers(variables, features, config):
  """Returns the embeddings and the output of each layer, [B, S, H] each."""
  ids = features[schema.INPUT_IDS]
  x = _norm(
      variables,
      tf.gather(variables["bert/embeddings/word_embeddings"], ids)
      + tf.gather(variables["bert/embeddings/token_type_embeddings"],
                  features[schema.SEGMENT_IDS])
      + variables["bert/embeddings/position_embeddings"][:ids.shape[1]],
      "bert/embeddings")
  mask = tf.cast(features[schema.INPUT_MASK], x.dtype)
  layers = [x]
  for layer in range(config.num_hidden_layers):
    scope = "bert/encoder/layer_{}/".format(layer)
    queries, keys, values = (
        _split_heads(_dense(variables, x, scope + "attention/self/" + name),
                     config.num_attention_heads)
        for name in ("query", "key", "value"))
    scores = tf.matmul(queries, keys, transpose_b=True) / math.sqrt(
        config.hidden_size // config.num_attention_heads)
    scores += -10000.0 * (1 - mask)[:, tf.newaxis, tf.newaxis, :]
    context = tf.transpose(tf.matmul(tf.nn.softmax(scores), values),
                           [0, 2, 1, 3])
    context = tf.reshape(context, x.shape)
    output = scope + "attention/output"
    x = _norm(variables, _dense(variables, context, output + "/dense") + x,
              output)
    inner = _gelu(_dense(variables, x, scope + "intermediate/dense"))
    output = scope + "output"
    x = _norm(variables, _dense(variables, inner, output + "/dense") + x,
              output)
    layers.append(x)
  return layers


def pool(variables, x):
  """Returns the pooled output [B, H] of the last layer [B, S, H]."""
  return tf.tanh(_dense(variables, x[:, 0], "bert/pooler/dense"))


def forward(variables, features, config):
  """Returns masked-LM scores [B, P, V] and next-sentence scores [B, 2]."""
  x = encoder_layers(variables, features, config)[-1]
  masked = tf.gather(x, features[schema.MASKED_LM_POSITIONS], batch_dims=1)
  transform = "cls/predictions/transform"
  masked = _norm(
      variables, _gelu(_dense(variables, masked, transform + "/dense")),
      transform)
  masked_scores = _product(
      masked, variables["bert/embeddings/word_embeddings"], transpose_b=True)
  next_scores = _product(
      pool(variables, x), variables["cls/seq_relationship/output_weights"],
      transpose_b=True)
  return (
      tf.nn.bias_add(masked_scores, variables["cls/predictions/output_bias"]),
      tf.nn.bias_add(next_scores, variables["cls/seq_relationship/output_bias"])
  )


def loss(variables, features, config, hard_label_weight=0.0):
  """Returns the student's loss on a batch, a scalar."""
  masked_scores, next_scores = forward(variables, features, config)
  log_probabilities = tf.nn.log_softmax(masked_scores)  # [B, P, V]
  losses = (hard_label_weight - 1) * tf.reduce_sum(
      features[schema.TEACHER_PROBABILITIES]
      * tf.gather(log_probabilities, features[schema.TEACHER_INDICES],
                  batch_dims=2), axis=-1)
  if hard_label_weight:
    losses -= hard_label_weight * tf.gather(
        log_probabilities, features[schema.MASKED_LM_IDS], batch_dims=2)
  weights = features[schema.MASKED_LM_WEIGHTS]
  next_losses = -tf.gather(
      tf.nn.log_softmax(next_scores),
      features[schema.NEXT_SENTENCE_LABELS][:, 0], batch_dims=1)
  return (tf.reduce_sum(losses * weights) / (tf.reduce_sum(weights) + 1e-5)
          + tf.reduce_mean(next_losses))


def batch(examples):
  """Stacks the features of records into float64 and int64 tensors."""
  stacked = {name: np.stack([features[name] for features in examples])
             for name in examples[0]}
  return {name: tf.constant(
      values, tf.float64 if values.dtype.kind == "f" else tf.int64)
          for name, values in stacked.items()}


def adamw(variables, slots, gradients, rate):
  """Applies one step of AdamW.

  Args:
    variables: tensors by name.
    slots: moments by name, NAME/adam_m and NAME/adam_v.
    gradients: gradients by name, which are clipped to a global norm of 1.
    rate: the learning rate.

  Returns:
    The updated variables and slots, by name.
  """
  clipped, _ = tf.clip_by_global_norm(list(gradients.values()), 1.0)
  updated = {}
  for name, gradient in zip(gradients, clipped):
    m = 0.9 * slots[name + "/adam_m"] + 0.1 * gradient
    v = 0.999 * slots[name + "/adam_v"] + 0.001 * tf.square(gradient)
    update = m / (tf.sqrt(v) + 1e-6)
    if not ("LayerNorm" in name or "bias" in name):
      update += 0.01 * variables[name]
    updated[name] = variables[name] - rate * update
    updated[name + "/adam_m"], updated[name + "/adam_v"] = m, v
  return updated


def train(variables, features, config, learning_rate, num_train_steps,
          num_warmup_steps, num_steps, hard_label_weight=0.0):
  """Takes steps of AdamW on one batch, eagerly and in float64.

  Returns:
    The variables and the slots NAME/adam_m and NAME/adam_v, as arrays by name.
  """
  state = {name: tf.constant(value, tf.float64)
           for name, value in variables.items()}
  state.update({name + slot: tf.zeros_like(state[name]) for name in variables
                for slot in ("/adam_m", "/adam_v")})
  for step in range(num_steps):
    x = {name: state[name] for name in variables}
    with tf.GradientTape() as tape:
      tape.watch(x)
      value = loss(x, features, config, hard_label_weight)
    gradients = {name: tf.convert_to_tensor(gradient)
                 for name, gradient in tape.gradient(value, x).items()}
    if step < num_warmup_steps:
      rate = learning_rate * step / num_warmup_steps
    else:
      rate = learning_rate * (1 - step / num_train_steps)
    state = adamw(x, state, gradients, rate)
  return {name: value.numpy() for name, value in state.items()}


def _product(x, matrix, **keywords):
  """Multiplies the last axis of a tensor of static shape by a matrix."""
  rows = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), matrix, **keywords)
  return tf.reshape(rows, [*x.shape[:-1], rows.shape[-1]])


def _dense(variables, x, scope):
  return tf.nn.bias_add(_product(x, variables[scope + "/kernel"]),
                        variables[scope + "/bias"])


def _norm(variables, x, scope):
  mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
  return tf.nn.batch_normalization(
      x, mean, variance, variables[scope + "/LayerNorm/beta"],
      variables[scope + "/LayerNorm/gamma"], 1e-12)


def _gelu(x):
  return x * 0.5 * (1.0 + tf.tanh(
      math.sqrt(2 / math.pi) * (x + 0.044715 * tf.pow(x, 3))))


def _split_heads(x, heads):
  """Splits [B, S, H] into [B, A, S, D]."""
  batch_size, seq_length, hidden_size = x.shape
  return tf.transpose(
      tf.reshape(x, [batch_size, seq_length, heads, hidden_size // heads]),
      [0, 2, 1, 3])
