r"""Measures stages IV and V on a GPU, or on the CPU of a machine without one.

  python benchmarks/gpu.py --part model --output_dir gpu
  python benchmarks/gpu.py --part rates --output_dir gpu --precision fp16
  python benchmarks/gpu.py --part labels --labels gpu/of_cpu,gpu/of_gpu

benchmarks/gpu.sh runs this script with each precision, with and without XLA.
`model` writes a model with random weights and masked records with random
tokens; the model is BERT-Base unless the folder has a config. `rates` prints a
row of a table: sequences per second of stage IV, and of training a student of
the same size, each with its share of the rate of a large matrix product in the
same precision; then the peak memory. `labels` compares two labelled files.
"""

import os
import pathlib
import statistics
import sys
import time
from typing import Callable, Dict, Tuple

if __name__ == "__main__":  # TensorFlow reads these variables at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "examples")]

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import tensorflow as tf

import arithmetic
from distillation import checkpoints
from distillation import devices
from distillation import student
from distillation import teacher
import make_student_config
import modeling
from records import schema
from records import tfrecord
import teacher_memory
import training_step
from util import command_line
from util.command_line import InputError

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_NUM_RECORDS = 1024
_TOP_K = 10
# In its first runs, a graph chooses kernels and compiles.
_WARM_UP_TURNS = 2
# Rows of the multiplied matrices: large enough to reach the device's peak.
_GPU_MATRIX_SIZE, _CPU_MATRIX_SIZE, _SLOW_MATRIX_SIZE = 8192, 3072, 256


def define_flags() -> None:
  flags.DEFINE_enum("part", None, ["model", "rates", "labels"], "Part to run.")
  flags.DEFINE_string("output_dir", None, "Folder of the model and records.")
  flags.DEFINE_enum("precision", "fp32", devices.PRECISIONS, "Precision.")
  flags.DEFINE_bool("tf32", True, "Whether GPUs may round the factors of fp32 "
                    "products to TF32, as TensorFlow does by default.")
  flags.DEFINE_bool("use_xla", False, "Whether XLA compiles the graphs.")
  flags.DEFINE_integer("batch_size", 256, "Sequences per batch of stage IV.")
  flags.DEFINE_integer("train_batch_size", 64, "Sequences per step.")
  flags.DEFINE_integer("turns", 20, "Batches and steps to time.")
  flags.DEFINE_list("labels", None, "Two labelled files to compare.")


def write_model(folder: pathlib.Path) -> None:
  """Writes random weights and records, and keeps an existing config."""
  folder.mkdir(parents=True, exist_ok=True)
  config_file = folder / checkpoints.CONFIG_FILE
  if not config_file.exists():
    config_file.write_text(
        teacher_memory.CONFIGS["base"].to_json_string(), encoding="utf-8")
  teacher_memory.write_random_checkpoint(
      checkpoints.load_config(str(config_file)),
      str(folder / checkpoints.CHECKPOINT_FILE))
  features = teacher_memory.random_features(_NUM_RECORDS)
  with open(folder / "masked.tfrecord", "wb") as file:
    file.write(tfrecord.frame(tfrecord.encode(features)))


def median_seconds(run: Callable[[], None]) -> float:
  """Returns the median seconds of --turns runs, after warm-up runs."""
  seconds = []
  for _ in range(_WARM_UP_TURNS + FLAGS.turns):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[_WARM_UP_TURNS:])


def labelling_rate(config: modeling.BertConfig, checkpoint: str,
                   device: devices.DeviceOptions) -> float:
  """Returns the sequences that stage IV labels per second."""
  features = teacher_memory.random_features(FLAGS.batch_size)
  labeller = teacher.Teacher(config, checkpoint, teacher.LabelOptions(
      truncation_factor=_TOP_K, batch_size=FLAGS.batch_size, device=device))
  return FLAGS.batch_size / median_seconds(lambda: labeller.label(features, 0))


def training_rate(config: modeling.BertConfig, checkpoint: str,
                  device: devices.DeviceOptions) -> float:
  """Returns the sequences per second of training a student."""
  features = teacher_memory.random_features(FLAGS.train_batch_size)
  slots = features[schema.MASKED_LM_IDS].shape
  features[schema.TEACHER_PROBABILITIES] = np.full(
      [*slots, _TOP_K], 0.05, np.float32)
  features[schema.TEACHER_INDICES] = np.random.default_rng(1).integers(
      0, config.vocab_size, [*slots, _TOP_K], dtype=np.int32)
  options = student.StudentOptions(
      config, init_checkpoint=checkpoint, num_warmup_steps=0,
      compute_type=devices.compute_type(device.precision),
      for_cpu=not devices.has_gpu())
  stepper = training_step.Stepper(
      lambda batch: training_step.build_step(options, batch, device.use_xla),
      lambda unused_params: tf1.data.Dataset.from_tensors(features).cache()
      .repeat(), FLAGS.train_batch_size, devices.session_config(device))
  return FLAGS.train_batch_size / median_seconds(stepper.step)


def product_rate() -> float:
  """Returns the rate of one large matrix product, in GFLOP/s."""
  dtype = {"fp16": tf.float16, "bf16": tf.bfloat16}.get(
      devices.effective_precision(FLAGS.precision), tf.float32)
  size = _CPU_MATRIX_SIZE
  if devices.has_gpu():
    size = _GPU_MATRIX_SIZE
  elif dtype == tf.float16:
    size = _SLOW_MATRIX_SIZE
  return arithmetic.matrix_product_rate(dtype, size)


def print_rates(folder: pathlib.Path) -> None:
  """Prints a row of the table."""
  tf.config.experimental.enable_tensor_float_32_execution(FLAGS.tf32)
  devices.choose_gpu(None)
  device = devices.DeviceOptions(FLAGS.precision, FLAGS.use_xla)
  config = checkpoints.load_config(str(folder / checkpoints.CONFIG_FILE))
  checkpoint = str(folder / checkpoints.CHECKPOINT_FILE)
  product = 1e9 * product_rate()
  num_operations = make_student_config.num_operations(
      config, *(teacher_memory.random_features(1)[name].shape[1] for name in (
          schema.INPUT_IDS, schema.MASKED_LM_IDS)))
  labelling, training = (
      rate(config, checkpoint, device)
      for rate in (labelling_rate, training_rate))
  memory = (tf.config.experimental.get_memory_info("GPU:0")["peak"]
            if devices.has_gpu() else teacher_memory.peak_bytes())
  name = FLAGS.precision
  if devices.effective_precision(name) != name:
    name += ", run at fp32"
  if name == "fp32" and devices.has_gpu() and FLAGS.tf32:
    name = "fp32, products in TF32"
  training_operations = arithmetic.TRAINING_PASSES * num_operations
  sys.stdout.write(
      "| {}{} | {:,.0f} | {:.0%} | {:,.0f} | {:.0%} | {:,.1f} | {:.1f} |\n"
      .format(name, ", XLA" if FLAGS.use_xla else "", labelling,
              labelling * num_operations / product, training,
              training * training_operations / product,
              product / 1e12, memory / 1e9))


def read_labels(path: str) -> Tuple[np.ndarray, np.ndarray]:
  """Returns the stored probabilities and indices, each [slots, K]."""
  records = [tfrecord.decode(record)
             for record in tfrecord.read(path, "labels")]
  if not records or schema.TEACHER_INDICES not in records[0]:
    raise InputError("--labels: {} holds no top-k labels; give two outputs of "
                     "stage IV with --label_format=topk".format(path))
  return tuple(np.concatenate([
      record[name].reshape(-1, _TOP_K)[
          np.asarray(record[schema.MASKED_LM_WEIGHTS]) > 0]
      for record in records])
               for name in (schema.TEACHER_PROBABILITIES,
                            schema.TEACHER_INDICES))


def compare_labels(first: str, second: str) -> None:
  """Prints how the labels of two files differ."""
  (probabilities, indices), (others, other_indices) = map(
      read_labels, (first, second))
  if indices.shape != other_indices.shape:
    raise InputError("--labels: {} has {:,} masked tokens, {} has {:,}; give "
                     "two files with labels of the same records".format(
                         first, len(indices), second, len(other_indices)))
  overlap = (indices[:, :, np.newaxis] == other_indices[:, np.newaxis]).sum()
  sys.stdout.write(
      "{:,} masked tokens: the most probable token is equal in {:.2%}; of the "
      "{} stored tokens, {:.2%} are in both files; probabilities of the same "
      "rank differ by {:.1e} at most\n".format(
          len(indices), (indices[:, 0] == other_indices[:, 0]).mean(), _TOP_K,
          overlap / indices.size, np.abs(probabilities - others).max()))


def main() -> None:
  if FLAGS.part == "labels":
    if len(FLAGS.labels or ()) != 2:
      raise InputError("--labels={}: give two labelled files, separated by a "
                       "comma".format(",".join(FLAGS.labels or ())))
  elif not FLAGS.output_dir:
    raise InputError("--output_dir is missing; give the folder of the model")
  parts: Dict[str, Callable[[], None]] = {
      "model": lambda: write_model(pathlib.Path(FLAGS.output_dir)),
      "rates": lambda: print_rates(pathlib.Path(FLAGS.output_dir)),
      "labels": lambda: compare_labels(*FLAGS.labels)}
  parts[FLAGS.part]()


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("part",))
