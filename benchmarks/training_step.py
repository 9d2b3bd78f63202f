r"""Times a training step against PyTorch and a straightforward step.

  python benchmarks/training_step.py \
    --bert_config_file student/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file 'data/labelled/wiki_distill_*.tfrecord' \
    --peers_python .venv-peers/bin/python

The peer is a step with the arithmetic of transformers' Trainer (see
benchmarks/peers.py). The straightforward step (tests/reference_bert.py) follows
the formulas: every masked-LM slot, log_softmax over the whole vocabulary,
gradients by autodiff, AdamW as separate operations. All steps read the same
batches, without dropout. The benchmark compares the losses of the project's
step and the straightforward step, which start from the same checkpoint.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from typing import Any, Dict, List, Mapping, Sequence

if __name__ == "__main__":  # TensorFlow reads these variables at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags
import tensorflow as tf

import arithmetic
from distillation import checkpoints
from distillation import devices
from distillation import student
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

_SEED = 12345
# The first steps of a graph create kernels and allocate memory.
WARM_UP_STEPS = 2
# Batches that the peer holds in memory.
_PEER_BATCHES = 4


def define_flags() -> None:
  measure.define_flags()
  flags.DEFINE_string("bert_config_file", None, "Config of the student.")
  flags.DEFINE_string(
      "init_checkpoint", None, "Checkpoint from which the student starts.")
  flags.DEFINE_string("input_file", None, "Labelled records.")
  input_pipeline.define_flags()
  flags.DEFINE_integer(
      "truncation_factor", 10, "K, the teacher entries stored for each slot.")
  flags.DEFINE_integer("train_batch_size", 32, "Sequences per step.")
  flags.DEFINE_integer("steps", 5, "Steps per turn.", lower_bound=1)
  flags.DEFINE_list("precisions", ["fp32", "bf16"],
                    "Precisions of the project's step.")
  flags.DEFINE_bool("use_xla", False,
                    "Whether to time the step compiled by XLA, too.")
  flags.DEFINE_float("learning_rate", 5e-5, "Learning rate at the first step.")


class Stepper:
  """A graph with a training step, in a separate session."""

  def __init__(self, build, input_fn, batch_size, session_config):
    """Builds the graph and starts the session.

    Args:
      build: takes features and returns the loss and the train operation.
      input_fn: result of `input_pipeline.training_input_fn`.
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
    self.losses = []

  def step(self) -> None:
    loss, _ = self._session.run(self._fetches)
    self.losses.append(float(loss))

  def take(self, num_steps: int) -> float:
    """Takes `num_steps` steps and returns their seconds."""
    return measure.seconds_of(lambda: [self.step() for _ in range(num_steps)])


def build_step(options: student.StudentOptions, features,
               has_padding: bool = False):
  """Builds the project's training step.

  Args:
    options: options of the student.
    features: features of a batch, tensors by name.
    has_padding: as for `student.prepare_batch`.

  Returns:
    The loss and the train operation.
  """
  outputs, step = student.create_train_step(
      options, student.prepare_batch(features, has_padding=has_padding))
  checkpoints.restore(options.init_checkpoint, options.init_layers)
  return outputs["loss"], step.operation


def build_straightforward_step(options: student.StudentOptions, features):
  """Builds the straightforward step; arguments as for `build_step`."""
  variables = {
      name: tf1.get_variable(name, shape=shape, use_resource=True)
      for name, shape in modeling.variable_shapes(options.config).items()}
  checkpoints.restore(options.init_checkpoint, options.init_layers)
  slots = {
      name + slot: tf1.get_variable(
          name + slot, shape=variable.shape, trainable=False,
          initializer=tf1.zeros_initializer(), use_resource=True)
      for name, variable in variables.items()
      for slot in ("/adam_m", "/adam_v")}
  loss = reference_bert.loss(variables, features, options.config)
  gradients = dict(zip(variables, map(
      tf.convert_to_tensor, tf.gradients(loss, list(variables.values())))))
  step = tf1.train.get_or_create_global_step()
  rate = options.learning_rate * (
      1 - tf.cast(step, tf.float32) / options.num_train_steps)
  updated = reference_bert.adamw(variables, slots, gradients, rate)
  with tf.control_dependencies([rate]):
    counted = step.assign_add(1)
  return loss, tf.group(counted, *(
      {**variables, **slots}[name].assign(value)
      for name, value in updated.items()))


def build_steppers(options: student.StudentOptions, input_fn, batch_size: int
                  ) -> Dict[str, Stepper]:
  """Builds the straightforward step, then the project's steps, by name."""
  steppers = {"straightforward, fp32": Stepper(
      lambda features: build_straightforward_step(options, features), input_fn,
      batch_size, devices.session_config())}
  for use_xla in [False, True][:1 + FLAGS.use_xla]:
    for precision in FLAGS.precisions:
      own = dataclasses.replace(
          options, compute_type=devices.compute_type(precision),
          for_cpu=not devices.has_gpu())
      steppers[precision + ", XLA" * use_xla] = Stepper(
          functools.partial(build_step, own, has_padding=use_xla), input_fn,
          batch_size,
          devices.session_config(devices.DeviceOptions(precision, use_xla)))
  return steppers


def make_rows(steppers: Mapping[str, Stepper],
              seconds: Mapping[str, Sequence[float]],
              peers: Mapping[str, measure.Peer], num_operations: float
             ) -> List[Dict[str, Any]]:
  """Returns the rows of the project's steps; operations are per sequence."""
  rates = {name: [FLAGS.steps * FLAGS.train_batch_size / spent
                  for spent in turns] for name, turns in seconds.items()}
  plain, *own = steppers
  rows = []
  for name in own:
    limit = arithmetic.limit(seconds, name.partition(",")[0], num_operations)
    rest = arithmetic.profile(steppers[name].step)
    what = "training step, " + name
    peer = peers.get(name)
    rows.append(measure.row(
        what, "sequences/s", rates[name], peer and peer.description,
        rates.get("peer, " + name, ()), limit, rest))
    if name in ("fp32", "fp32, XLA"):
      rows.append(measure.row(
          what + " (plain graph)", "sequences/s", rates[name],
          {"name": "straightforward TensorFlow graph",
           "settings": "fp32, all slots, autodiff, AdamW as separate "
           "operations"}, rates[plain], limit, rest))
  return rows


def main() -> None:
  config = dataclasses.replace(
      checkpoints.load_config(FLAGS.bert_config_file, FLAGS.max_seq_length),
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
  options = student.StudentOptions(
      config, init_checkpoint=FLAGS.init_checkpoint,
      learning_rate=FLAGS.learning_rate, num_warmup_steps=0)
  shape = schema.RecordShape(
      FLAGS.max_seq_length, FLAGS.max_predictions_per_seq,
      FLAGS.truncation_factor)
  corpus = order.read_corpus(
      files.find_files(FLAGS.input_file, "input_file"), "input_file")
  input_fn = input_pipeline.training_input_fn(
      corpus, shape, "input_file", _SEED)
  batch_size = FLAGS.train_batch_size
  steppers = build_steppers(options, input_fn, batch_size)
  features = next(input_pipeline.read_windows(
      corpus, "input_file", shape, 0, _PEER_BATCHES * batch_size,
      _PEER_BATCHES * batch_size)).features
  with contextlib.ExitStack() as stack:
    peers = measure.model_peers(
        stack, FLAGS.peers_python, "training", features,
        FLAGS.bert_config_file, [precision for precision in FLAGS.precisions
                                 if precision != "fp16"], batch_size,
        FLAGS.steps)
    for stepper in steppers.values():
      stepper.take(WARM_UP_STEPS)
    seconds = measure.alternate({
        **{name: functools.partial(stepper.take, FLAGS.steps)
           for name, stepper in steppers.items()},
        **{"peer, " + precision: peer.run
           for precision, peer in peers.items() if not peer.is_absent},
        **arithmetic.product_contenders(FLAGS.precisions)}, FLAGS.turns)
  lengths = features[schema.INPUT_MASK].sum(axis=1)
  num_slots = (features[schema.MASKED_LM_WEIGHTS] > 0).sum()
  num_operations = arithmetic.TRAINING_PASSES * arithmetic.operations(
      config, lengths.size * FLAGS.max_seq_length, num_slots,
      FLAGS.max_seq_length, True) / lengths.size
  rows = make_rows(steppers, seconds, peers, num_operations)
  plain, own, *_ = steppers.values()
  difference = max(abs(mine - theirs)
                   for mine, theirs in zip(own.losses, plain.losses))
  measure.finish(rows, [
      "{} steps a turn, {} sequences of {} tokens and {:.1f} of {} slots in a "
      "step, {} layers of {}, no dropout; {:.2f} GFLOP of matrix products a "
      "sequence. Ours reads its records meanwhile, the peer has them in memory "
      "and cuts a batch to its longest sequence. The losses of the first kind "
      "and of the straightforward graph differ by {:.1e} at most.".format(
          FLAGS.steps, batch_size, FLAGS.max_seq_length,
          num_slots / lengths.size, FLAGS.max_predictions_per_seq,
          config.num_hidden_layers, config.hidden_size, num_operations / 1e9,
          difference)])


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("bert_config_file", "init_checkpoint",
                                   "input_file"))
