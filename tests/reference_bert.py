"""BERT, the student's loss and AdamW, written as plainly as the formulas.

Everything is float64, eager, and indexes arrays by the names of Google's
checkpoints; nothing of the project is used but the names of the features.
"""

import math

import numpy as np
import tensorflow as tf

import records


def forward(variables, features, config):
  """Returns masked-word scores [B, P, V] and next-sentence scores [B, 2]."""

  def dense(x, scope):
    return x @ variables[scope + "/kernel"] + variables[scope + "/bias"]

  def norm(x, scope):
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    scaled = (x - mean) / tf.sqrt(variance + 1e-12)
    return (scaled * variables[scope + "/LayerNorm/gamma"]
            + variables[scope + "/LayerNorm/beta"])

  def gelu(x):
    return x * 0.5 * (1 + tf.tanh(
        math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))

  def split_heads(x):
    heads = config.num_attention_heads
    return tf.stack(tf.split(x, heads, axis=-1), axis=1)  # [B, A, S, D]

  ids = features[records.INPUT_IDS]
  mask = tf.cast(features[records.INPUT_MASK], tf.float64)
  words = variables["bert/embeddings/word_embeddings"]
  x = norm(
      tf.gather(words, ids)
      + tf.gather(variables["bert/embeddings/token_type_embeddings"],
                  features[records.SEGMENT_IDS])
      + variables["bert/embeddings/position_embeddings"][:ids.shape[1]],
      "bert/embeddings")
  for layer in range(config.num_hidden_layers):
    scope = "bert/encoder/layer_{}/".format(layer)
    query, key, value = (split_heads(dense(x, scope + "attention/self/" + name))
                         for name in ("query", "key", "value"))
    scores = query @ tf.linalg.matrix_transpose(key) / math.sqrt(
        config.hidden_size / config.num_attention_heads)
    scores += -10000.0 * (1 - mask)[:, None, None, :]
    context = tf.nn.softmax(scores) @ value
    context = tf.concat(tf.unstack(context, axis=1), axis=-1)  # [B, S, H]
    output = scope + "attention/output"
    attention = norm(dense(context, output + "/dense") + x, output)
    inner = gelu(dense(attention, scope + "intermediate/dense"))
    output = scope + "output"
    x = norm(dense(inner, output + "/dense") + attention, output)
  pooled = tf.tanh(dense(x[:, 0], "bert/pooler/dense"))
  masked = tf.gather(x, features[records.MASKED_LM_POSITIONS], batch_dims=1)
  transform = "cls/predictions/transform"
  masked = norm(gelu(dense(masked, transform + "/dense")), transform)
  masked_scores = (masked @ tf.transpose(words)
                   + variables["cls/predictions/output_bias"])
  next_scores = (
      pooled @ tf.transpose(variables["cls/seq_relationship/output_weights"])
      + variables["cls/seq_relationship/output_bias"])
  return masked_scores, next_scores


def loss(variables, features, config, hard_label_weight=0.0):
  """Returns the student's loss on a batch."""
  masked_scores, next_scores = forward(variables, features, config)
  log_probabilities = tf.nn.log_softmax(masked_scores)
  teacher = tf.reduce_sum(
      tf.one_hot(features[records.TEACHER_INDICES], config.vocab_size,
                 dtype=tf.float64)
      * features[records.TEACHER_PROBABILITIES][..., None], axis=2)
  word = tf.one_hot(features[records.MASKED_LM_IDS], config.vocab_size,
                    dtype=tf.float64)
  target = (1 - hard_label_weight) * teacher + hard_label_weight * word
  losses = -tf.reduce_sum(target * log_probabilities, axis=-1)
  weights = features[records.MASKED_LM_WEIGHTS]
  next_labels = tf.one_hot(features[records.NEXT_SENTENCE_LABELS][:, 0], 2,
                           dtype=tf.float64)
  next_losses = -tf.reduce_sum(next_labels * tf.nn.log_softmax(next_scores),
                               axis=-1)
  return (tf.reduce_sum(losses * weights) / (tf.reduce_sum(weights) + 1e-5)
          + tf.reduce_mean(next_losses))


def batch(examples):
  """Stacks the features of records to float64 and int64 tensors."""
  stacked = {name: np.stack([features[name] for features in examples])
             for name in examples[0]}
  return {name: tf.constant(
      values, tf.float64 if values.dtype.kind == "f" else tf.int64)
          for name, values in stacked.items()}


def train(variables, features, config, learning_rate, num_train_steps,
          num_warmup_steps, num_steps, hard_label_weight=0.0):
  """Takes steps of AdamW on one batch.

  Returns:
    The variables and the slots NAME/adam_m and NAME/adam_v, by name.
  """
  x = {name: np.float64(value) for name, value in variables.items()}
  m = {name: np.zeros_like(value) for name, value in x.items()}
  v = {name: np.zeros_like(value) for name, value in x.items()}
  for step in range(num_steps):
    tensors = {name: tf.constant(value) for name, value in x.items()}
    with tf.GradientTape() as tape:
      tape.watch(tensors)
      value = loss(tensors, features, config, hard_label_weight)
    gradients = {name: np.asarray(tf.convert_to_tensor(gradient))
                 for name, gradient in tape.gradient(value, tensors).items()}
    norm = math.sqrt(sum((gradient ** 2).sum()
                         for gradient in gradients.values()))
    if step < num_warmup_steps:
      rate = learning_rate * step / num_warmup_steps
    else:
      rate = learning_rate * (1 - step / num_train_steps)
    for name, gradient in gradients.items():
      gradient = gradient * min(1.0, 1.0 / norm)
      m[name] = 0.9 * m[name] + 0.1 * gradient
      v[name] = 0.999 * v[name] + 0.001 * gradient ** 2
      update = m[name] / (np.sqrt(v[name]) + 1e-6)
      if not ("LayerNorm" in name or "bias" in name):
        update = update + 0.01 * x[name]
      x[name] = x[name] - rate * update
  slots = {name + "/adam_m": value for name, value in m.items()}
  slots.update({name + "/adam_v": value for name, value in v.items()})
  return dict(x, **slots)
