r"""Times the labelling of records against the straightforward graph.

  python benchmarks/teacher_labels.py \
    --bert_config_file teacher/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file data/masked/wiki_masked_0.tfrecord

The straightforward graph is that of the tests, tests/reference_bert.py, written
as the formulas are: the whole last layer, all slots, sequences padded to
max_seq_length, float32. The variants label the same records in turns, A B C A
B C; the figures are medians over the turns. The same run measures the
machine's matrix product, and how far the bf16 labels are from those of fp32.
"""

import dataclasses
import os
import pathlib
import statistics
import sys
import time
from typing import Callable, Dict, List, Mapping

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import tensorflow as tf

from distillation import checkpoints
from distillation import devices
from distillation import teacher
import modeling
from records import input_pipeline
from records import order
from records import schema
import reference_bert
from util import command_line
from util import files

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_INPUTS = (schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS,
           schema.MASKED_LM_POSITIONS)
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
  input_pipeline.define_flags()


def straightforward(config: modeling.BertConfig, checkpoint: str,
                    shape: schema.RecordShape, batch_size: int
                   ) -> Callable[[Mapping[str, np.ndarray]], None]:
  """Builds the straightforward graph; returns what labels features with it."""
  sizes = schema.features(shape)
  with tf.Graph().as_default():
    inputs = {name: tf1.placeholder(
        tf.int32, [batch_size, *sizes[name].shape]) for name in _INPUTS}
    variables = {
        name: tf1.get_variable(name, shape=size, use_resource=True)
        for name, size in modeling.variable_shapes(config).items()}
    logits, _ = reference_bert.forward(variables, inputs, config)
    outputs = tf.math.top_k(tf.nn.softmax(logits), _TOP_K)
    checkpoints.restore(checkpoint)
    session = tf1.Session()
    session.run(tf1.global_variables_initializer())

  def label(features):
    for start in range(0, len(features[schema.INPUT_IDS]), batch_size):
      rows = range(start, start + batch_size)
      # The last batch is filled up with the first records.
      session.run(outputs, {
          inputs[name]: features[name].take(rows, axis=0, mode="wrap")
          for name in _INPUTS})

  return label


def matrix_product_rate(dtype: tf.DType, size: int = _MATRIX_SIZE) -> float:
  """Measures the matrix product of large matrices, in GFLOP/s."""
  with tf.Graph().as_default(), tf1.Session() as session:
    matrix = tf.Variable(
        tf.cast(tf.random.normal([size] * 2), dtype))
    product = tf.matmul(matrix, matrix)[0, 0]
    session.run(tf1.global_variables_initializer())
    seconds = []
    for _ in range(6):
      start = time.perf_counter()
      session.run(product)
      seconds.append(time.perf_counter() - start)
  return 2 * size ** 3 / statistics.median(seconds[1:]) / 1e9


def operations(config: modeling.BertConfig, tokens: float, slots: float,
               length: float, is_narrow: bool) -> float:
  """Counts the floating-point operations of the matrix products.

  Args:
    config: the teacher's size.
    tokens: how many it reads, with the padding that it reads.
    slots: how many masked tokens.
    length: mean length of the sequences.
    is_narrow: whether the last layer is computed for the slots only.
  """
  hidden_size = config.hidden_size
  projections = 2 * 4 * hidden_size * hidden_size
  attention = 4 * length * hidden_size
  feed_forward = 4 * hidden_size * config.intermediate_size
  layer = projections + attention + feed_forward
  total = tokens * layer * (config.num_hidden_layers - is_narrow)
  if is_narrow:
    total += tokens * projections / 2
    total += slots * (projections / 2 + attention + feed_forward)
  return total + slots * 2 * hidden_size * (hidden_size + config.vocab_size)


def main() -> None:
  config = checkpoints.load_config(FLAGS.bert_config_file, FLAGS.max_seq_length)
  shape = schema.RecordShape(FLAGS.max_seq_length,
                             FLAGS.max_predictions_per_seq)
  features = next(input_pipeline.read_windows(
      order.read_corpus(files.find_files(FLAGS.input_file, "input_file"),
                        "input_file"), "input_file", shape, 0,
      FLAGS.num_records, FLAGS.num_records)).features
  options = teacher.LabelOptions(
      truncation_factor=_TOP_K, batch_size=FLAGS.batch_size)
  teachers = {
      precision: teacher.Teacher(
          config, FLAGS.init_checkpoint, dataclasses.replace(
              options, device=devices.DeviceOptions(precision)))
      for precision in ("fp32", "bf16")}
  plain = straightforward(
      config, FLAGS.init_checkpoint, shape, FLAGS.batch_size)
  variants = {
      "straightforward": lambda: plain(features),
      "fp32": lambda: teachers["fp32"].label(features, 0),
      "bf16": lambda: teachers["bf16"].label(features, 0),
  }
  labels = {name: run() for name, run in variants.items()}  # Warms up, too.
  seconds: Dict[str, List[float]] = {name: [] for name in variants}
  for _ in range(FLAGS.num_turns):
    for name, run in variants.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  rates = {"fp32": matrix_product_rate(tf.float32),
           "bf16": matrix_product_rate(tf.bfloat16)}
  lengths = features[schema.INPUT_MASK].sum(axis=1)
  is_real = features[schema.MASKED_LM_WEIGHTS] > 0
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
  (exact, exact_ids), (rounded, rounded_ids) = (
      (labels[name].features[schema.TEACHER_PROBABILITIES],
       labels[name].predictions) for name in ("fp32", "bf16"))
  say("bf16 against fp32: best token equal in {:.2%} of the slots, "
      "probabilities {:.4f} apart on average\n".format(
          (exact_ids == rounded_ids)[is_real].mean(),
          np.abs(exact - rounded)[is_real].mean()))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("bert_config_file", "init_checkpoint",
                                   "input_file"))
