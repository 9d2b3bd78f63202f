r"""Runs stage IV with a teacher that computes nothing, for host_rate.py.

  PYTHONPATH=CHECKOUT python benchmarks/fixed_answers.py FLAGS

The flags are those of extract_teacher_labels_truncated.py, which comes from
CHECKOUT. Its graph is replaced by one with the same inputs, whose outputs are
constants of the real shapes. Everything else runs as in production.
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
from records import schema
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
  """Builds the graph; as `teacher._build_graph`."""
  inputs = {name: tf1.placeholder(tf.int32, [None, None], name=name)
            for name in (schema.INPUT_IDS, schema.INPUT_MASK,
                         schema.SEGMENT_IDS, schema.MASKED_LM_POSITIONS)}
  for name, dtype in (("slots", tf.int32), (schema.MASKED_LM_IDS, tf.int32),
                      ("offsets", tf.float64)):
    inputs[name] = tf1.placeholder(dtype, [None])
  generator = np.random.default_rng(0)

  def answers(*shape, dtype=np.int32):
    values = (generator.integers(config.vocab_size, size=(_NUM_ANSWERS, *shape))
              if dtype == np.int32 else
              generator.random((_NUM_ANSWERS, *shape)) / 10)
    rows = tf.range(tf.size(inputs["slots"])) % _NUM_ANSWERS
    return tf.gather(tf.constant(values.astype(dtype)), rows)

  top_k = options.truncation_factor
  stored = ([answers(config.hidden_size, dtype=np.float32)]
            if options.label_format == "hidden" else
            [answers(top_k, dtype=np.float32), answers(top_k)])
  return inputs, [*stored, answers(), answers(dtype=np.float32)]


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


_start_session = inference.start_session


if __name__ == "__main__":
  # pylint: disable=protected-access
  teacher._build_graph = build_graph
  inference.start_session = _start_device
  define_flags()
  command_line.run(stage.main, required=stage._REQUIRED_FLAGS)
