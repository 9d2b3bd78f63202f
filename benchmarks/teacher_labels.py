r"""Times the labelling of records against the straightforward graph.

  python benchmarks/teacher_labels.py \
    --bert_config_file teacher/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file data/masked/wiki_masked_0.tfrecord

The straightforward graph computes the whole last layer, all slots, sequences
padded to max_seq_length, in float32. The variants label the same records in
turns, A B C A B C; the figures are medians over the turns. The same run tells
what the machine's matrix product does, and how far the bf16 labels are from
those of fp32.
"""

import os
import statistics
import sys
import time

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
import numpy as np
import tensorflow as tf

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))
# pylint: disable=wrong-import-position
import command_line
import extract_teacher_labels_truncated as extraction
import modeling
import records

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_TOP_K = 10
_MATRIX_SIZE = 3072


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("bert_config_file", None, "Config of the teacher.")
  flags.DEFINE_string("init_checkpoint", None, "The teacher.")
  flags.DEFINE_string("input_file", None, "Masked records.")
  flags.DEFINE_integer("num_records", 512, "Records to label in a turn.")
  flags.DEFINE_integer("num_turns", 5, "Turns.")
  flags.DEFINE_integer("batch_size", 32, "Sequences in a batch.")
  command_line.define_record_lengths()


def straightforward(config: modeling.BertConfig, checkpoint: str,
                    batch_size: int):
  """Builds the straightforward graph; returns a function of the features."""
  with tf.Graph().as_default():
    names = (records.INPUT_IDS, records.INPUT_MASK, records.SEGMENT_IDS,
             records.MASKED_LM_POSITIONS)
    inputs = {name: tf1.placeholder(tf.int32, [None, None]) for name in names}
    model = modeling.BertModel(
        config, False, inputs[records.INPUT_IDS], inputs[records.INPUT_MASK],
        inputs[records.SEGMENT_IDS])
    logits = modeling.masked_lm_logits(
        config, model, inputs[records.MASKED_LM_POSITIONS])
    outputs = tf.math.top_k(tf.nn.softmax(logits), _TOP_K)
    modeling.restore(checkpoint)
    session = tf1.Session()
    session.run(tf1.global_variables_initializer())

  def label(features):
    for start in range(0, len(features[names[0]]), batch_size):
      session.run(outputs, {
          inputs[name]: features[name][start:start + batch_size]
          for name in names})

  return label


def matrix_product_rate(dtype: tf.DType) -> float:
  """Measures the matrix product of large matrices, in GFLOP/s."""
  with tf.Graph().as_default(), tf1.Session() as session:
    matrix = tf.Variable(
        tf.cast(tf.random.normal([_MATRIX_SIZE] * 2), dtype))
    product = tf.matmul(matrix, matrix)[0, 0]
    session.run(tf1.global_variables_initializer())
    seconds = []
    for _ in range(6):
      start = time.perf_counter()
      session.run(product)
      seconds.append(time.perf_counter() - start)
  return 2 * _MATRIX_SIZE ** 3 / statistics.median(seconds[1:]) / 1e9


def operations(config: modeling.BertConfig, tokens: float, slots: float,
               length: float, is_narrow: bool) -> float:
  """Counts the floating-point operations of the matrix products.

  Args:
    config: the teacher's size.
    tokens: how many it reads, with the padding that it reads.
    slots: how many masked words.
    length: mean length of the sequences.
    is_narrow: whether the last layer is computed for the slots alone.
  """
  width, inner = config.hidden_size, config.intermediate_size
  projections = 2 * 4 * width * width
  attention = 4 * length * width
  feed_forward = 4 * width * inner
  layer = projections + attention + feed_forward
  total = tokens * layer * (config.num_hidden_layers - is_narrow)
  if is_narrow:
    total += tokens * projections / 2
    total += slots * (projections / 2 + attention + feed_forward)
  return total + slots * 2 * width * (width + config.vocab_size)


def main() -> None:
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  shape = records.RecordShape(FLAGS.max_seq_length,
                              FLAGS.max_predictions_per_seq)
  files = records.find_files(FLAGS.input_file, "input_file")
  _, _, features = next(extraction.windows(
      files, shape, extraction.Share(0, FLAGS.num_records), FLAGS.num_records))
  options = extraction.LabelOptions(_TOP_K, batch_size=FLAGS.batch_size)
  teachers = {
      precision: extraction.Teacher(config, FLAGS.init_checkpoint,
                                    options._replace(precision=precision))
      for precision in ("fp32", "bf16")}
  plain = straightforward(config, FLAGS.init_checkpoint, FLAGS.batch_size)
  variants = {
      "straightforward": lambda: plain(features),
      "fp32": lambda: teachers["fp32"].label(features, 0),
      "bf16": lambda: teachers["bf16"].label(features, 0),
  }
  labels = {name: run() for name, run in variants.items()}  # Warms up, too.
  seconds = {name: [] for name in variants}
  for _ in range(FLAGS.num_turns):
    for name, run in variants.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  rates = {"fp32": matrix_product_rate(tf.float32),
           "bf16": matrix_product_rate(tf.bfloat16)}
  lengths = features[records.INPUT_MASK].sum(axis=1)
  is_real = features[records.MASKED_LM_WEIGHTS] > 0
  say = sys.stdout.write
  say("{} records, mean length {:.1f} of {}, {:.1f} of {} slots\n".format(
      len(lengths), lengths.mean(), FLAGS.max_seq_length,
      is_real.sum(axis=1).mean(), FLAGS.max_predictions_per_seq))
  slowest = statistics.median(seconds["straightforward"])
  for name in variants:
    median = statistics.median(seconds[name])
    if name == "straightforward":
      count = operations(config, is_real.shape[0] * FLAGS.max_seq_length,
                         is_real.size, FLAGS.max_seq_length, False)
    else:
      count = operations(config, lengths.sum(), is_real.sum(), lengths.mean(),
                         True)
    say("{:15s} {:7.1f} sequences/s  {:5.2f} x  {:6.1f} GFLOP/s of {:.1f} in a "
        "matrix product\n".format(
            name, len(lengths) / median, slowest / median, count / median / 1e9,
            rates.get(name, rates["fp32"])))
  (exact, exact_words), (rounded, rounded_words) = (
      labels["fp32"], labels["bf16"])
  say("bf16 against fp32: best word equal at {:.2%} of the slots, "
      "probabilities {:.4f} apart on average\n".format(
          (exact_words[..., 0] == rounded_words[..., 0])[is_real].mean(),
          np.abs(exact - rounded)[is_real].mean()))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("bert_config_file", "init_checkpoint",
                                   "input_file"))
