r"""Times a training step beside a straightforward one, in one run.

  python benchmarks/training_step.py \
    --bert_config_file student/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file 'data/labelled/wiki_distill_*.tfrecord'

The straightforward step is that of the tests, tests/reference_bert.py, written
as the formulas are: every masked-LM slot, log_softmax over the whole
vocabulary, gradients by autodiff, AdamW one operation at a time. All steps see
the same batches, without dropout, and take turns; the medians are compared, and
the losses of each from the same start.
"""

import dataclasses
import functools
import os
import pathlib
import statistics
import sys
import time

if __name__ == "__main__":  # TensorFlow reads these once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags
import tensorflow as tf

from distillation import checkpoints
from distillation import devices
from distillation import student
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
# The first steps of a graph make its kernels and memory.
_WARM_UP_TURNS = 2


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("bert_config_file", None, "Config of the student.")
  flags.DEFINE_string("init_checkpoint", None, "Where the student starts.")
  flags.DEFINE_string("input_file", None, "Labelled records.")
  input_pipeline.define_flags()
  flags.DEFINE_integer("truncation_factor", 10, "As in the records.")
  flags.DEFINE_integer("train_batch_size", 32, "Sequences in a step.")
  flags.DEFINE_integer("turns", 50, "Steps of each kind.", lower_bound=1)
  flags.DEFINE_list("precisions", ["fp32", "bf16"],
                    "Precisions to time the project's step in.")
  flags.DEFINE_bool("use_xla", False, "Whether to time it compiled, too.")
  flags.DEFINE_float("learning_rate", 5e-5, "Rate at the first step.")


class Stepper:
  """A graph with a step of training, in a session of its own."""

  def __init__(self, build, input_fn, batch_size, session_config):
    """Builds it.

    Args:
      build: takes features and returns the loss and the training operation.
      input_fn: as `input_pipeline.training_input_fn` builds it.
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


def build_step(options: student.StudentOptions, features):
  """Builds the project's own step."""
  outputs, step = student.create_train_step(options, features)
  checkpoints.restore(options.init_checkpoint, options.init_layers)
  return outputs["loss"], step.operation


def build_straightforward_step(options: student.StudentOptions, features):
  """Builds the same step as plainly as the formulas."""
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


def main() -> None:
  config = dataclasses.replace(
      checkpoints.load_config(FLAGS.bert_config_file, FLAGS.max_seq_length),
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
  options = student.StudentOptions(
      config, init_checkpoint=FLAGS.init_checkpoint,
      learning_rate=FLAGS.learning_rate, num_warmup_steps=0)
  input_fn = input_pipeline.training_input_fn(
      order.read_corpus(
          files.find_files(FLAGS.input_file, "input_file"), "input_file"),
      schema.RecordShape(FLAGS.max_seq_length, FLAGS.max_predictions_per_seq,
                         FLAGS.truncation_factor), "input_file", _SEED)
  batch_size = FLAGS.train_batch_size
  steppers = {"straightforward, fp32": Stepper(
      lambda features: build_straightforward_step(options, features), input_fn,
      batch_size, devices.session_config())}
  for use_xla in [False, True][:1 + FLAGS.use_xla]:
    for precision in FLAGS.precisions:
      own = dataclasses.replace(
          options, static_shapes=use_xla,
          compute_type=devices.compute_type(precision))
      steppers[precision + ", XLA" * use_xla] = Stepper(
          functools.partial(build_step, own), input_fn, batch_size,
          devices.session_config(devices.DeviceOptions(precision, use_xla)))
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
