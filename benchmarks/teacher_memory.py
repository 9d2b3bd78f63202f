r"""Measures the memory and time in which a teacher starts.

  python benchmarks/teacher_memory.py --models base,large

For each size and precision, a new process starts a teacher with random weights
and labels 64 sequences of 128 tokens. The benchmark prints the size of the
weights in float32, the seconds until the first labels, the peak memory of the
process, and its ratio to the weights. TensorFlow itself takes about 430 MB.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Dict

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import tensorflow as tf

from distillation import devices
from distillation import teacher
import modeling
from records import schema
from util import command_line

tf1 = tf.compat.v1

_SEQUENCES, _TOKENS, _SLOTS = 64, 128, 20
_VOCAB_SIZE = 30522
# Upper bound of the drawn token ids, so that small models can read them.
_SMALL_VOCAB_SIZE = 1000
CONFIGS = {
    "tiny": modeling.BertConfig(
        _VOCAB_SIZE, hidden_size=128, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=512),
    "base": modeling.BertConfig(_VOCAB_SIZE),
    "large": modeling.BertConfig(
        _VOCAB_SIZE, hidden_size=1024, num_hidden_layers=24,
        num_attention_heads=16, intermediate_size=4096),
}


def define_flags() -> None:
  flags.DEFINE_list("models", ["base", "large"], "Models to start: {}.".format(
      ", ".join(CONFIGS)))
  flags.DEFINE_list("precisions", ["fp32", "bf16"], "Precisions to start in.")
  flags.DEFINE_string(
      "checkpoint", None, "Checkpoint of the teacher in a measured process; "
      "set by the benchmark itself.")


def write_random_checkpoint(config: modeling.BertConfig, path: str) -> None:
  """Writes a checkpoint with newly initialized weights."""
  with tf.Graph().as_default(), tf1.Session() as session:
    ids = tf1.placeholder(tf.int32, [None, None])
    modeling.pretraining_logits(config, False, ids, ids, ids, ids)
    session.run(tf1.global_variables_initializer())
    tf1.train.Saver().save(session, path, write_meta_graph=False,
                           write_state=False)


def random_features(num_sequences: int = _SEQUENCES) -> Dict[str, np.ndarray]:
  """Returns the features of masked sequences without padding."""
  generator = np.random.default_rng(0)
  per_token, per_slot = (num_sequences, _TOKENS), (num_sequences, _SLOTS)
  return {
      schema.INPUT_IDS: generator.integers(
          0, _SMALL_VOCAB_SIZE, per_token, dtype=np.int32),
      schema.INPUT_MASK: np.ones(per_token, np.int32),
      schema.SEGMENT_IDS: np.zeros(per_token, np.int32),
      schema.MASKED_LM_POSITIONS: generator.integers(
          0, _TOKENS, per_slot, dtype=np.int32),
      schema.MASKED_LM_IDS: np.zeros(per_slot, np.int32),
      schema.MASKED_LM_WEIGHTS: np.ones(per_slot, np.float32),
      schema.NEXT_SENTENCE_LABELS: np.zeros([num_sequences, 1], np.int32),
  }


def start(model: str, precision: str, checkpoint: str) -> None:
  """Starts a teacher; prints the seconds and peak bytes of this process."""
  features = random_features()
  begin = time.perf_counter()
  started = teacher.Teacher(
      CONFIGS[model], checkpoint, teacher.LabelOptions(
          device=devices.DeviceOptions(precision)))
  started.label(features, 0)
  first = time.perf_counter() - begin
  begin = time.perf_counter()
  started.label(features, 0)
  sys.stdout.write("{} {} {}\n".format(
      first, time.perf_counter() - begin, peak_bytes()))


def peak_bytes() -> int:
  """Returns the peak memory of this process in bytes, without its parent's."""
  status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
  return int(re.search(r"VmHWM:\s*(\d+) kB", status).group(1)) << 10


def measure(model: str, precisions: "list[str]") -> None:
  """Prints a line for each precision of a model."""
  shapes = modeling.variable_shapes(CONFIGS[model]).values()
  num_bytes = 4 * sum(int(np.prod(shape)) for shape in shapes)
  with tempfile.TemporaryDirectory() as folder:
    checkpoint = os.path.join(folder, "random.ckpt")
    write_random_checkpoint(CONFIGS[model], checkpoint)
    for precision in precisions:
      output = subprocess.run(
          [sys.executable, __file__, "--checkpoint", checkpoint, "--models",
           model, "--precisions", precision], check=True,
          stdout=subprocess.PIPE, text=True).stdout
      first, again, peak = map(float, output.split())
      sys.stdout.write(
          "{:6} {}: {:.2f} GB of weights, first labels after {:.1f} s ({:.1f} s"
          " when warm), peak {:.2f} GB, {:.1f} times the weights\n".format(
              model, precision, num_bytes / 1e9, first, again, peak / 1e9,
              peak / num_bytes))
      sys.stdout.flush()


def main() -> None:
  values = flags.FLAGS
  if values.checkpoint:
    start(values.models[0], values.precisions[0], values.checkpoint)
    return
  for model in values.models:
    measure(model, values.precisions)


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
