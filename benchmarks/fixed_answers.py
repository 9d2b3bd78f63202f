r"""Runs stage IV with a teacher that computes nothing, for host_rate.py.

  PYTHONPATH=CHECKOUT python benchmarks/fixed_answers.py FLAGS

The flags are those of extract_teacher_labels_truncated.py, which comes from
CHECKOUT. The outputs of its graph are replaced by constants of their shapes and
types. Everything else runs as in production.
"""

import os

if __name__ == "__main__":  # TensorFlow reads it once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import time
from typing import Any, Dict, List, Tuple

from absl import flags
import numpy as np
import tensorflow as tf

from distillation import inference
from distillation import teacher
import extract_teacher_labels_truncated as stage
import modeling
from util import command_line

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

# Different answers, which come again and again.
_NUM_ANSWERS = 8192


def define_flags() -> None:
  """Defines the flags of the script beside those of the stage."""
  stage.define_flags()
  flags.DEFINE_float(
      "device_rate", 0.0, "Sequences a second of a device that computes the "
      "answers; the host waits for it. 0 is a device that takes no time.",
      lower_bound=0.0)


def build_graph(config: modeling.BertConfig, options: teacher.LabelOptions
               ) -> Tuple[Dict[str, tf.Tensor], List[tf.Tensor]]:
  """Builds the teacher's graph and replaces its outputs by constants."""
  inputs, outputs = _build_graph(config, options)
  generator = np.random.default_rng(0)
  rows = tf.range(tf.size(inputs["slots"])) % _NUM_ANSWERS
  answers = []
  for output in outputs:
    values = generator.random((_NUM_ANSWERS, *output.shape[1:])) * (
        config.vocab_size if output.dtype.is_integer else 0.1)
    if not output.dtype.is_integer:  # In all versions rounded from float32.
      values = values.astype(np.float32)
    answers.append(tf.gather(tf.constant(
        values.astype(output.dtype.as_numpy_dtype)), rows))
  return inputs, answers


class _Device:
  """A session whose runs take as long as those of a device."""

  def __init__(self, session: tf1.Session):
    self._session = session

  def run(self, fetches: Any, feeds: Dict[tf.Tensor, np.ndarray]) -> Any:
    start = time.perf_counter()
    found = self._session.run(fetches, feeds)
    if FLAGS.device_rate:
      num_sequences = next(len(values) for values in feeds.values()
                           if values.ndim == 2)
      time.sleep(max(0.0, start + num_sequences / FLAGS.device_rate
                     - time.perf_counter()))
    return found


def _start_device(*arguments: Any) -> _Device:
  return _Device(_start_session(*arguments))


# pylint: disable=protected-access
_build_graph = teacher._build_graph
_start_session = inference.start_session


if __name__ == "__main__":
  teacher._build_graph = build_graph
  inference.start_session = _start_device
  define_flags()
  command_line.run(stage.main, required=stage._REQUIRED_FLAGS)
