"""Fine-tunes BERT to classify sentences, like a script for Google's BERT.

The script uses only BERT's interface in `modeling`, `optimization` and
`tokenization`.
"""

import os

import tensorflow.compat.v1 as tf

import modeling
import optimization
import tokenization

flags = tf.flags
FLAGS = flags.FLAGS

flags.DEFINE_string("bert_dir", None, "Folder of the model to start from.")
flags.DEFINE_string("train_file", None, "Lines of label, tab and sentence.")
flags.DEFINE_string("output_dir", None, "Folder of checkpoints and results.")
flags.DEFINE_integer("max_seq_length", 10, "Tokens in a sequence.")
flags.DEFINE_integer("train_batch_size", 16, "Sequences in a step.")
flags.DEFINE_float("learning_rate", 0.003, "Rate that the schedule scales.")
flags.DEFINE_integer("num_train_steps", 400, "Training steps.")
flags.DEFINE_bool("use_tpu", False, "Whether to run on a TPU.")
flags.DEFINE_bool("use_one_hot_embeddings", False, "As BertModel has it.")
flags.DEFINE_bool("disable_v2_behavior", True, "As scripts of 2018 expect.")


def convert_examples(path, tokenizer):
  """Reads examples; returns lists of features by name."""
  features = {"input_ids": [], "input_mask": [], "segment_ids": [],
              "label_ids": []}
  with tf.gfile.GFile(path) as reader:
    for line in reader:
      label, text = tokenization.convert_to_unicode(line).strip().split("\t")
      tokens = tokenizer.tokenize(text)[:FLAGS.max_seq_length - 2]
      tokens = ["[CLS]"] + tokens + ["[SEP]"]
      padding = [0] * (FLAGS.max_seq_length - len(tokens))
      features["input_ids"].append(
          tokenizer.convert_tokens_to_ids(tokens) + padding)
      features["input_mask"].append([1] * len(tokens) + padding)
      features["segment_ids"].append([0] * FLAGS.max_seq_length)
      features["label_ids"].append(int(label))
  return features


def input_fn_builder(features, is_training):
  """Returns an input_fn for TPUEstimator."""

  def input_fn(params):
    dataset = tf.data.Dataset.from_tensor_slices({
        name: tf.constant(values, tf.int32)
        for name, values in features.items()})
    if is_training:
      dataset = dataset.repeat().shuffle(buffer_size=100, seed=1)
    return dataset.batch(params["batch_size"], drop_remainder=is_training)

  return input_fn


def create_model(bert_config, is_training, features, num_labels):
  """Returns the losses of the examples and the logits."""
  model = modeling.BertModel(
      config=bert_config, is_training=is_training,
      input_ids=features["input_ids"], input_mask=features["input_mask"],
      token_type_ids=features["segment_ids"],
      use_one_hot_embeddings=FLAGS.use_one_hot_embeddings)
  output_layer = model.get_pooled_output()
  hidden_size = output_layer.shape[-1]
  output_weights = tf.get_variable(
      "output_weights", [num_labels, hidden_size],
      initializer=tf.truncated_normal_initializer(stddev=0.02))
  output_bias = tf.get_variable(
      "output_bias", [num_labels], initializer=tf.zeros_initializer())
  with tf.variable_scope("loss"):
    logits = tf.matmul(output_layer, output_weights, transpose_b=True)
    logits = tf.nn.bias_add(logits, output_bias)
    one_hot_labels = tf.one_hot(
        features["label_ids"], depth=num_labels, dtype=tf.float32)
    losses = -tf.reduce_sum(
        one_hot_labels * tf.nn.log_softmax(logits, axis=-1), axis=-1)
  return losses, logits


def model_fn_builder(bert_config, num_labels, init_checkpoint):
  """Returns a model_fn for TPUEstimator."""

  def model_fn(features, labels, mode, params):
    del labels, params
    is_training = mode == tf.estimator.ModeKeys.TRAIN
    losses, logits = create_model(
        bert_config, is_training, features, num_labels)
    loss = tf.reduce_mean(losses)
    tvars = tf.trainable_variables()
    assignment_map, initialized_variable_names = (
        modeling.get_assignment_map_from_checkpoint(tvars, init_checkpoint))
    tf.train.init_from_checkpoint(init_checkpoint, assignment_map)
    for var in tvars:
      tf.logging.info("%s %s%s", var.name, var.shape, (
          " *INIT_FROM_CKPT*" if var.name in initialized_variable_names
          else ""))
    if is_training:
      train_op = optimization.create_optimizer(
          loss, FLAGS.learning_rate, FLAGS.num_train_steps,
          FLAGS.num_train_steps // 10, FLAGS.use_tpu)
      return tf.estimator.tpu.TPUEstimatorSpec(
          mode=mode, loss=loss, train_op=train_op)

    def metric_fn(label_ids, logits):
      predictions = tf.argmax(logits, axis=-1, output_type=tf.int32)
      return {"eval_accuracy": tf.metrics.accuracy(label_ids, predictions)}

    return tf.estimator.tpu.TPUEstimatorSpec(
        mode=mode, loss=loss,
        eval_metrics=(metric_fn, [features["label_ids"], logits]))

  return model_fn


def main(_):
  if FLAGS.disable_v2_behavior:
    tf.disable_v2_behavior()
  init_checkpoint = os.path.join(FLAGS.bert_dir, "bert_model.ckpt")
  tokenization.validate_case_matches_checkpoint(True, init_checkpoint)
  bert_config = modeling.BertConfig.from_json_file(
      os.path.join(FLAGS.bert_dir, "bert_config.json"))
  assert FLAGS.max_seq_length <= bert_config.max_position_embeddings
  tokenizer = tokenization.FullTokenizer(
      vocab_file=os.path.join(FLAGS.bert_dir, "vocab.txt"), do_lower_case=True)
  features = convert_examples(FLAGS.train_file, tokenizer)
  estimator = tf.estimator.tpu.TPUEstimator(
      use_tpu=FLAGS.use_tpu,
      model_fn=model_fn_builder(bert_config, 2, init_checkpoint),
      config=tf.estimator.tpu.RunConfig(
          model_dir=FLAGS.output_dir, tf_random_seed=1,
          save_checkpoints_steps=FLAGS.num_train_steps),
      train_batch_size=FLAGS.train_batch_size, eval_batch_size=8)
  estimator.train(input_fn_builder(features, is_training=True),
                  max_steps=FLAGS.num_train_steps)
  result = estimator.evaluate(input_fn_builder(features, is_training=False))
  with tf.gfile.GFile(
      os.path.join(FLAGS.output_dir, "eval_results.txt"), "w") as writer:
    for key in sorted(result):
      writer.write("{} = {}\n".format(key, result[key]))


if __name__ == "__main__":
  tf.app.run()
