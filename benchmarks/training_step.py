r"""Times a training step beside a straightforward one, in one run.

  python benchmarks/training_step.py \
    --bert_config_file student/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file 'data/labelled/wiki_distill_*.tfrecord'

The straightforward step is written below as the formulas are: every masked-LM
slot, log_softmax over the whole vocabulary, gradients by autodiff, AdamW one
operation at a time. All steps see the same batches, without dropout, and take
turns; the medians are compared, and the losses of each from the same start.
"""

import dataclasses
import math
import os
import statistics
import sys
import time

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
import tensorflow as tf

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))
# pylint: disable=wrong-import-position
import command_line
import distillation
import modeling
import records

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_SEED = 12345
# The first steps of a graph make its kernels and memory.
_WARM_UP_TURNS = 2


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("bert_config_file", None, "Config of the student.")
  flags.DEFINE_string("init_checkpoint", None, "Where the student starts.")
  flags.DEFINE_string("input_file", None, "Labelled records.")
  command_line.define_record_lengths()
  flags.DEFINE_integer("truncation_factor", 10, "As in the records.")
  flags.DEFINE_integer("train_batch_size", 32, "Sequences in a step.")
  flags.DEFINE_integer("turns", 50, "Steps of each kind.", lower_bound=1)
  flags.DEFINE_list("precisions", ["fp32", "bf16"],
                    "Precisions to time the project's step in.")
  flags.DEFINE_float("learning_rate", 5e-5, "Rate at the first step.")


class Stepper:
  """A graph with a step of training, in a session of its own."""

  def __init__(self, build, input_fn, batch_size, session_config):
    """Builds it.

    Args:
      build: takes features and returns the loss and the training operation.
      input_fn: as `records.training_input_fn` builds it.
      batch_size: B.
      session_config: a tf1.ConfigProto.
    """
    with tf.Graph().as_default() as graph:
      features = tf1.data.make_one_shot_iterator(
          input_fn({"batch_size": batch_size})).get_next()
      self._fetches = build(features)
      self._session = tf1.Session(graph=graph, config=session_config)
      self._session.run((tf1.global_variables_initializer(),
                         tf1.local_variables_initializer()))
    self.times, self.losses = [], []

  def step(self) -> None:
    """Takes one step."""
    start = time.perf_counter()
    loss, _ = self._session.run(self._fetches)
    self.times.append(time.perf_counter() - start)
    self.losses.append(float(loss))

  def median(self) -> float:
    """Returns the seconds of a step."""
    return statistics.median(self.times[_WARM_UP_TURNS:])


def build_step(options: distillation.StudentOptions, features):
  """Builds the project's own step."""
  spec = distillation.build_model_fn(options)(
      features, None, tf.estimator.ModeKeys.TRAIN, {})
  return spec.loss, spec.train_op


def build_straightforward_step(options: distillation.StudentOptions, features):
  """Builds the same step as plainly as the formulas."""
  config = options.config
  loss = _straightforward_loss(config, features)
  modeling.restore(options.init_checkpoint, options.init_layers)
  step = tf1.train.get_or_create_global_step()
  rate = options.learning_rate * (
      1 - tf.cast(step, tf.float32) / options.num_train_steps)
  variables = tf1.trainable_variables()
  gradients, _ = tf.clip_by_global_norm([
      tf.convert_to_tensor(gradient)
      for gradient in tf.gradients(loss, variables)], 1.0)
  updates = [step.assign_add(1)]
  for variable, gradient in zip(variables, gradients):
    m, v = (tf1.get_variable(
        variable.op.name + slot, shape=variable.shape, trainable=False,
        initializer=tf1.zeros_initializer(), use_resource=True)
            for slot in ("/adam_m", "/adam_v"))
    next_m = 0.9 * m + 0.1 * gradient
    next_v = 0.999 * v + 0.001 * tf.square(gradient)
    update = next_m / (tf.sqrt(next_v) + 1e-6)
    if not ("LayerNorm" in variable.op.name or "bias" in variable.op.name):
      update += 0.01 * variable
    updates += [variable.assign(variable - rate * update),
                m.assign(next_m), v.assign(next_v)]
  return loss, tf.group(*updates)


def _straightforward_loss(config: modeling.BertConfig, features):
  """Runs BERT and returns the loss."""

  def variable(name, shape):
    return tf1.get_variable(name, shape=shape, use_resource=True)

  def dense(x, units, scope, activation=None):
    width = x.shape[-1]
    shape = tf.shape(x)
    x = tf.matmul(tf.reshape(x, [-1, width]),
                  variable(scope + "/kernel", [width, units]))
    x = tf.nn.bias_add(x, variable(scope + "/bias", [units]))
    x = activation(x) if activation else x
    return tf.reshape(x, tf.concat([shape[:-1], [units]], axis=0))

  def norm(x, scope):
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return tf.nn.batch_normalization(
        x, mean, variance, variable(scope + "/LayerNorm/beta", x.shape[-1:]),
        variable(scope + "/LayerNorm/gamma", x.shape[-1:]), 1e-12)

  def gelu(x):
    return x * 0.5 * (1.0 + tf.tanh(
        math.sqrt(2 / math.pi) * (x + 0.044715 * tf.pow(x, 3))))

  def split_heads(x):
    heads = config.num_attention_heads
    batch_size, length, width = x.shape
    return tf.transpose(
        tf.reshape(x, [batch_size, length, heads, width // heads]),
        [0, 2, 1, 3])

  ids = features[records.INPUT_IDS]
  batch_size, length = ids.shape
  width = config.hidden_size
  words = variable("bert/embeddings/word_embeddings",
                   [config.vocab_size, width])
  x = (tf.gather(words, ids)
       + tf.gather(variable("bert/embeddings/token_type_embeddings",
                            [config.type_vocab_size, width]),
                   features[records.SEGMENT_IDS])
       + variable("bert/embeddings/position_embeddings",
                  [config.max_position_embeddings, width])[:length])
  x = norm(x, "bert/embeddings")
  mask = tf.cast(features[records.INPUT_MASK], tf.float32)
  for layer in range(config.num_hidden_layers):
    scope = "bert/encoder/layer_{}/".format(layer)
    query, key, value = (
        split_heads(dense(x, width, scope + "attention/self/" + name))
        for name in ("query", "key", "value"))
    scores = tf.matmul(query, key, transpose_b=True) / math.sqrt(
        width // config.num_attention_heads)
    scores += -10000.0 * (1 - mask)[:, tf.newaxis, tf.newaxis, :]
    context = tf.transpose(tf.matmul(tf.nn.softmax(scores), value),
                           [0, 2, 1, 3])
    context = tf.reshape(context, [batch_size, length, width])
    scope_out = scope + "attention/output"
    x = norm(dense(context, width, scope_out + "/dense") + x, scope_out)
    inner = dense(x, config.intermediate_size, scope + "intermediate/dense",
                  gelu)
    scope_out = scope + "output"
    x = norm(dense(inner, width, scope_out + "/dense") + x, scope_out)
  pooled = dense(x[:, 0], width, "bert/pooler/dense", tf.tanh)
  masked = tf.gather(x, features[records.MASKED_LM_POSITIONS], batch_dims=1)
  masked = norm(dense(masked, width, "cls/predictions/transform/dense", gelu),
                "cls/predictions/transform")
  masked = tf.reshape(masked, [-1, width])
  log_probabilities = tf.nn.log_softmax(tf.nn.bias_add(
      tf.matmul(masked, words, transpose_b=True),
      variable("cls/predictions/output_bias", [config.vocab_size])))
  top_k = features[records.TEACHER_INDICES].shape[-1]
  losses = -tf.reduce_sum(
      tf.reshape(features[records.TEACHER_PROBABILITIES], [-1, top_k])
      * tf.gather(log_probabilities, tf.reshape(
          features[records.TEACHER_INDICES], [-1, top_k]), batch_dims=1),
      axis=-1)
  weights = tf.reshape(features[records.MASKED_LM_WEIGHTS], [-1])
  following = tf.nn.bias_add(
      tf.matmul(pooled, variable("cls/seq_relationship/output_weights",
                                 [2, width]), transpose_b=True),
      variable("cls/seq_relationship/output_bias", [2]))
  next_losses = -tf.reduce_sum(
      tf.one_hot(features[records.NEXT_SENTENCE_LABELS][:, 0], 2)
      * tf.nn.log_softmax(following), axis=-1)
  return (tf.reduce_sum(losses * weights) / (tf.reduce_sum(weights) + 1e-5)
          + tf.reduce_mean(next_losses))


def main() -> None:
  config = dataclasses.replace(
      modeling.BertConfig.from_json_file(FLAGS.bert_config_file),
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
  options = distillation.StudentOptions(
      config=config, hard_label_weight=0.0, temperature=1.0, tail_mass="drop",
      init_checkpoint=FLAGS.init_checkpoint, init_layers=None,
      learning_rate=FLAGS.learning_rate, num_train_steps=100000,
      num_warmup_steps=0)
  input_fn = records.training_input_fn(
      records.find_files(FLAGS.input_file, "input_file"),
      records.RecordShape(FLAGS.max_seq_length, FLAGS.max_predictions_per_seq,
                          FLAGS.truncation_factor), _SEED)
  batch_size = FLAGS.train_batch_size
  steppers = {"straightforward, fp32": Stepper(
      lambda features: build_straightforward_step(options, features), input_fn,
      batch_size, modeling.session_config())}
  for precision in FLAGS.precisions:
    steppers[precision] = Stepper(
        lambda features: build_step(options, features), input_fn, batch_size,
        modeling.session_config(precision))
  for _ in range(FLAGS.turns + _WARM_UP_TURNS):
    for stepper in steppers.values():
      stepper.step()
  plain, *_ = steppers.values()
  for name, stepper in steppers.items():
    sys.stdout.write(
        "{:22} {:6.0f} ms a step, {:6.1f} sequences/s, {:.2f} times; losses "
        "differ by {:.1e} at most\n".format(
            name, stepper.median() * 1e3, batch_size / stepper.median(),
            plain.median() / stepper.median(),
            max(abs(mine - theirs) for mine, theirs in zip(
                stepper.losses, plain.losses))))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("bert_config_file", "init_checkpoint",
                                   "input_file"))
