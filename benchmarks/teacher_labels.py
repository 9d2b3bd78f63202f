r"""Times stage IV against PyTorch and a straightforward graph.

  python benchmarks/teacher_labels.py \
    --bert_config_file teacher/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file data/masked/wiki_masked_0.tfrecord \
    --peers_python .venv-peers/bin/python

The peer is a loop of transformers' BertForMaskedLM (see benchmarks/peers.py)
that labels the same records in the same precision. The straightforward graph
(tests/reference_bert.py) follows the formulas in float32: it computes the whole
last layer and all slots of sequences padded to max_seq_length. The benchmark
also measures the machine's rate of matrix products, and the difference between
labels in bf16 and fp32.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from typing import Any, Callable, Dict, List, Mapping, Sequence

if __name__ == "__main__":  # TensorFlow reads this variable at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import tensorflow as tf

import arithmetic
from distillation import checkpoints
from distillation import devices
from distillation import teacher
import measure
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
_PRECISIONS = ("fp32", "bf16")


def define_flags() -> None:
  measure.define_flags()
  flags.DEFINE_string("bert_config_file", None, "Config of the teacher.")
  flags.DEFINE_string("init_checkpoint", None, "Checkpoint of the teacher.")
  flags.DEFINE_string("input_file", None, "Masked records.")
  flags.DEFINE_integer("num_records", 256, "Records to label per turn.")
  flags.DEFINE_integer("batch_size", 32, "Sequences per batch.")
  input_pipeline.define_flags()


def straightforward(config: modeling.BertConfig, checkpoint: str,
                    shape: schema.RecordShape, batch_size: int
                   ) -> Callable[[Mapping[str, np.ndarray]], None]:
  """Builds the straightforward graph and returns a function that runs it."""
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
      # The last batch is padded with the first records.
      session.run(outputs, {
          inputs[name]: features[name].take(rows, axis=0, mode="wrap")
          for name in _INPUTS})

  return label


def make_rows(figures: Mapping[str, Sequence[float]], num_records: int,
              peers: Mapping[str, measure.Peer], num_operations: float,
              variants: Mapping[str, Callable[[], Any]]
             ) -> List[Dict[str, Any]]:
  """Returns the rows of all precisions; operations are per sequence."""
  rates = {name: [num_records / spent for spent in seconds]
           for name, seconds in figures.items()}
  rows = []
  for precision in _PRECISIONS:
    limit = arithmetic.limit(figures, precision, num_operations)
    rest = arithmetic.profile(variants[precision])
    name = "stage IV, " + precision
    rows.append(measure.row(
        name, "sequences/s", rates[precision], peers[precision].description,
        rates.get("peer, " + precision, ()), limit, rest))
    if precision == "fp32":
      rows.append(measure.row(
          name + " (plain graph)", "sequences/s", rates[precision],
          {"name": "straightforward TensorFlow graph",
           "settings": "fp32, whole last layer, all slots, padding"},
          rates["straightforward"], limit, rest))
  return rows


def main() -> None:
  config = checkpoints.load_config(FLAGS.bert_config_file, FLAGS.max_seq_length)
  shape = schema.RecordShape(FLAGS.max_seq_length,
                             FLAGS.max_predictions_per_seq)
  features = next(input_pipeline.read_windows(
      order.read_corpus(files.find_files(FLAGS.input_file, "input_file"),
                        "input_file"), "input_file", shape, 0,
      FLAGS.num_records, FLAGS.num_records)).features
  num_records = len(features[schema.INPUT_IDS])
  options = teacher.LabelOptions(
      truncation_factor=_TOP_K, batch_size=FLAGS.batch_size)
  teachers = {
      precision: teacher.Teacher(
          config, FLAGS.init_checkpoint, dataclasses.replace(
              options, device=devices.DeviceOptions(precision)))
      for precision in _PRECISIONS}
  plain = straightforward(
      config, FLAGS.init_checkpoint, shape, FLAGS.batch_size)
  variants: Dict[str, Callable[[], Any]] = {
      "straightforward": lambda: plain(features),
      **{precision: functools.partial(started.label, features, 0)
         for precision, started in teachers.items()}}
  labels = {name: run() for name, run in variants.items()}  # Also warms up.
  with contextlib.ExitStack() as stack:
    peers = measure.model_peers(
        stack, FLAGS.peers_python, "labels", features, FLAGS.bert_config_file,
        _PRECISIONS, FLAGS.batch_size)
    contenders = {
        **{name: functools.partial(measure.seconds_of, run)
           for name, run in variants.items()},
        **{"peer, " + precision: peer.run
           for precision, peer in peers.items() if not peer.is_absent},
        **arithmetic.product_contenders(_PRECISIONS)}
    figures = measure.alternate(contenders, FLAGS.turns)
  lengths = features[schema.INPUT_MASK].sum(axis=1)
  is_real = features[schema.MASKED_LM_WEIGHTS] > 0
  num_operations = arithmetic.operations(
      config, lengths.sum(), is_real.sum(), lengths.mean(), True) / num_records
  rows = make_rows(figures, num_records, peers, num_operations, variants)
  (exact, exact_ids), (rounded, rounded_ids) = (
      (labels[name].features[schema.TEACHER_PROBABILITIES],
       labels[name].predictions) for name in _PRECISIONS)
  measure.finish(rows, [
      "{} records of mean length {:.1f} of {} and {:.1f} of {} slots, batches "
      "of {}, {} layers of {}; {:.2f} GFLOP of matrix products a sequence."
      .format(num_records, lengths.mean(), FLAGS.max_seq_length,
              is_real.sum(axis=1).mean(), FLAGS.max_predictions_per_seq,
              FLAGS.batch_size, config.num_hidden_layers, config.hidden_size,
              num_operations / 1e9),
      "bf16 against fp32: the best token is equal in {:.2%} of the slots, "
      "probabilities are {:.4f} apart on average.".format(
          (exact_ids == rounded_ids)[is_real].mean(),
          np.abs(exact - rounded)[is_real].mean())])


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("bert_config_file", "init_checkpoint",
                                   "input_file"))
