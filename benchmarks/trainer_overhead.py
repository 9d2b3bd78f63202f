r"""Measures the trainer's overhead per step.

  python benchmarks/trainer_overhead.py --turns 20

Within one training run, the trainer and a bare loop of `session.run` take turns
of --block steps in the same session, graph and input pipeline. The bare loop
fetches only the train operation. The difference is the trainer's overhead: its
hooks, the summaries and losses that it fetches, and Estimator's loop. The
student has one layer and a small vocabulary, so that a step is short; the
overhead does not depend on the student. The records are random.
"""

import os

if __name__ == "__main__":  # TensorFlow reads these variables at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")

import pathlib
import statistics
import sys
import tempfile
import time
from typing import Dict, List

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags
import tensorflow.compat.v1 as tf1

from distillation import hooks
from distillation import options
from distillation import training
import measure
import modeling
from records import schema
import tiny
from util import command_line

FLAGS = flags.FLAGS

_SHAPE = schema.RecordShape(128, 20, 10)
_NUM_RECORDS = 512
# Turns that do not count: the first steps create kernels and allocate memory.
_WARM_UP_TURNS = 1


def define_flags() -> None:
  """Defines the flags of the script and of the trainer."""
  measure.define_flags()
  options.define_flags()
  flags.DEFINE_integer("block", 100, "Steps per turn.", lower_bound=1)
  flags.FLAGS.set_default("train_batch_size", 32)


class _Turns(tf1.train.SessionRunHook):
  """Times turns of the trainer's steps and of bare steps, alternately.

  Attributes:
    seconds: seconds per step of each turn, by contender.
  """

  def __init__(self, block: int):
    self._block = block
    self._num_steps = 0
    self.seconds: Dict[str, List[float]] = {"trainer": [], "bare loop": []}

  def begin(self):
    # The step counter after the update, which depends on the whole step.
    self._train_op = tf1.get_collection(hooks.STEP_AFTER)[0].op

  def after_create_session(self, session, coord):
    self._start = time.perf_counter()

  def after_run(self, run_context, run_values):
    self._num_steps += 1
    if self._num_steps % self._block:
      return
    self._record("trainer")
    for _ in range(self._block):
      run_context.session.run(self._train_op)
    self._record("bare loop")

  def _record(self, contender: str) -> None:
    now = time.perf_counter()
    self.seconds[contender].append((now - self._start) / self._block)
    self._start = time.perf_counter()


def main() -> None:
  turns = _Turns(FLAGS.block)
  with tempfile.TemporaryDirectory() as folder:
    config = os.path.join(folder, "bert_config.json")
    pathlib.Path(config).write_text(modeling.BertConfig(
        vocab_size=tiny.CONFIG.vocab_size, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=1, intermediate_size=16).to_json_string())
    FLAGS.bert_config_file = config
    FLAGS.input_file = str(tiny.write_records(
        pathlib.Path(folder, "labelled.tfrecord"),
        tiny.random_examples(_NUM_RECORDS, seed=1, shape=_SHAPE)))
    FLAGS.output_dir = os.path.join(folder, "run")
    FLAGS.do_train = True
    FLAGS.num_train_steps = 2 * FLAGS.block * (FLAGS.turns + _WARM_UP_TURNS)
    FLAGS.num_warmup_steps = 1
    FLAGS.save_checkpoints_steps = FLAGS.num_train_steps
    training.run(command_line.options(options.TrainerOptions),
                 training.Processes(broadcast_hooks=(turns,)))
  milliseconds = {
      contender: [1000 * seconds for seconds in found[_WARM_UP_TURNS:]]
      for contender, found in turns.seconds.items()}
  for contender, found in milliseconds.items():
    sys.stdout.write("{}: {:.2f} ms per step ({:.2f} to {:.2f})\n".format(
        contender, statistics.median(found), min(found), max(found)))
  sys.stdout.write("overhead: {:.2f} ms per step, median of {} turns\n".format(
      statistics.median(ours - bare for ours, bare in zip(
          *milliseconds.values())), FLAGS.turns))


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
