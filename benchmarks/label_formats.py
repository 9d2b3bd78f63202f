r"""Compares the formats of the teacher's labels.

  python benchmarks/label_formats.py \
    --teacher_config_file teacher/bert_config.json \
    --teacher_checkpoint teacher/bert_model.ckpt \
    --student_config_file student/bert_config.json \
    --student_checkpoint student/bert_model.ckpt \
    --input_file data/masked/heldout_0.tfrecord

The benchmark labels the first records of a file in each format, with a user's
commands. For each format, it prints the bytes per sequence; the teacher's
probability of the stored entries; the cosine, over all masked tokens, between
the gradients of the student's loss for the stored labels and for the whole
distribution, with respect to the logits; the seconds per training step; and the
sequences per second of the reader alone. Steps and reading are medians of
alternating runs. Then it prints the rounding errors of float16 and bfloat16
hidden states.
"""

import dataclasses
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple

if __name__ == "__main__":  # TensorFlow reads this variable at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import tensorflow as tf

from distillation import checkpoints
from distillation import devices
from distillation import student
from distillation import teacher_decoder
import modeling
from records import input_pipeline
from records import block_index
from records import manifest
from records import order
from records import schema
import reading
import some_records
import training_step
from util import command_line
from util import files
from util.command_line import InputError

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_FLAG = "input_file"
_SEED = 12345
# Masked tokens whose gradients are compared, in total and at a time.
_NUM_TOKENS = 2000
_BLOCK_TOKENS = 500
# Batches that the reader takes per turn.
_READ_BATCHES = 200


class Format(NamedTuple):
  """A format of labels.

  Attributes:
    label_flags: flags of stage IV.
    record_flags: flags of examples/convert_records.py; None keeps the records
      of stage IV.
  """
  label_flags: Mapping[str, Any]
  record_flags: Any = None


def _topk(truncation_factor: int, tail_samples: int = 0, bits: int = 0
         ) -> Format:
  return Format({"truncation_factor": truncation_factor,
                 "tail_samples": tail_samples},
                {"probability_bits": bits} if bits else None)


_HIDDEN = {"label_format": "hidden"}
_FORMATS: Dict[str, Format] = {
    "10 most probable": _topk(10),
    "20 most probable": _topk(20),
    "50 most probable": _topk(50),
    "10, --tail_samples 5": _topk(10, 5),
    "10, --tail_samples 9": _topk(10, 9),
    "20, --tail_samples 10": _topk(20, 10),
    "20, --tail_samples 19": _topk(20, 19),
    "10, --tail_samples 9, compact, 32 bits": _topk(10, 9, 32),
    "10, --tail_samples 9, compact, 16 bits": _topk(10, 9, 16),
    "10, --tail_samples 9, compact, 8 bits": _topk(10, 9, 8),
    "20, --tail_samples 19, compact, 16 bits": _topk(20, 19, 16),
    "hidden": Format(_HIDDEN),
    "hidden, compact": Format(_HIDDEN, {}),
}


def define_flags() -> None:
  for model in ("teacher", "student"):
    flags.DEFINE_string(model + "_config_file", None,
                        "Config of the {}.".format(model))
    flags.DEFINE_string(model + "_checkpoint", None,
                        "Checkpoint of the {}.".format(model))
  flags.DEFINE_string(_FLAG, None, "Masked records.")
  flags.DEFINE_integer("num_records", 1200, "Records to label.")
  input_pipeline.define_flags()
  flags.DEFINE_integer("train_batch_size", 32, "Sequences per step.")
  flags.DEFINE_integer("turns", 7, "Turns of each format.", lower_bound=1)
  flags.DEFINE_integer("steps", 5, "Steps per turn.", lower_bound=1)


@dataclasses.dataclass
class Stored:
  """Labels in one format, and their measurements.

  Attributes:
    path: the labelled records.
    shape: lengths of the records.
    decoder: decoder of the teacher, for hidden states.
    speeds: sequences per second of the reader, for each turn.
    stepper: takes training steps on the records.
    step_seconds: seconds per step, for each turn.
  """
  path: str
  shape: schema.RecordShape
  decoder: Any
  speeds: List[float] = dataclasses.field(default_factory=list)
  stepper: Any = None
  step_seconds: List[float] = dataclasses.field(default_factory=list)

  def input_fn(self):
    return input_pipeline.training_input_fn(
        order.read_corpus([self.path], _FLAG), self.shape, _FLAG, _SEED,
        limits=schema.limits(self.shape, self._vocab_size(), 2))

  def _vocab_size(self) -> int:
    return manifest.read_manifest(self.path).vocab_size

  def features(self) -> Dict[str, np.ndarray]:
    """Reads all records."""
    corpus = order.read_corpus([self.path], _FLAG)
    window, = input_pipeline.read_windows(
        corpus, _FLAG, self.shape, 0, corpus.size, corpus.size)
    return window.features


def run(script: str, **options: Any) -> None:
  """Runs a script of the project; raises InputError if it fails."""
  words = ["--{}={}".format(name, value) for name, value in options.items()]
  result = subprocess.run(
      [sys.executable, str(ROOT / script), *words], stderr=subprocess.PIPE,
      text=True, check=False)
  if result.returncode:
    raise InputError("{} failed: {}".format(
        script, result.stderr.strip().split("\n")[-1]))


def store(name: str, format_: Format, masked: str, folder: str) -> Stored:
  """Labels the records in one format."""
  lengths = {"max_seq_length": FLAGS.max_seq_length,
             "max_predictions_per_seq": FLAGS.max_predictions_per_seq}
  slug = "-".join(str(value) for value in format_.label_flags.values())
  path = os.path.join(folder, slug, "labelled.tfrecord")
  run("extract_teacher_labels_truncated.py", input_file=masked,
      output_file=path, bert_config_file=FLAGS.teacher_config_file,
      init_checkpoint=FLAGS.teacher_checkpoint, **lengths,
      **format_.label_flags)
  if format_.record_flags is not None:
    output_dir = os.path.join(folder, name.replace(" ", ""))
    run("examples/convert_records.py", input_file=path, output_dir=output_dir,
        **format_.record_flags)
    path = os.path.join(output_dir, "labelled.tfrecord")
  shape = input_pipeline.with_stored_labels(
      schema.RecordShape(**lengths), path, _FLAG)
  shape = input_pipeline.check_records(
      [path], _FLAG, shape, manifest.read_manifest(path).vocab_size)
  decoder = None
  if shape.teacher_hidden_size:
    decoder = teacher_decoder.read(teacher_decoder.path_beside(path))
  return Stored(path, shape, decoder)


def run_model(config_file: str, checkpoint: str, output: str,
              features: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns a model's output at the masked tokens, float32 [N, V] or [N, H].

  Args:
    config_file: config of the model.
    checkpoint: checkpoint of the model.
    output: name of a field of `modeling.pretraining_logits`'s result.
    features: features of the records, arrays by name.
  """
  config = checkpoints.load_config(config_file)
  with tf.Graph().as_default(), tf1.Session() as session:
    names = (schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS,
             schema.MASKED_LM_POSITIONS)
    inputs = [tf1.placeholder(features[name].dtype, [None, None])
              for name in names]
    slots = tf1.placeholder(tf.int32, [None])
    values = getattr(modeling.pretraining_logits(
        config, False, *inputs, slots, has_next_sentence=False,
        for_cpu=not devices.has_gpu()), output)
    checkpoints.restore(checkpoint)
    session.run(tf1.global_variables_initializer())
    size = FLAGS.train_batch_size
    return np.concatenate([
        session.run(values, {
            slots: np.flatnonzero(
                features[schema.MASKED_LM_WEIGHTS][start:start + size]),
            **{tensor: features[name][start:start + size]
               for tensor, name in zip(inputs, names)}})
        for start in range(0, len(features[schema.INPUT_IDS]), size)])


def softmax(logits: np.ndarray) -> np.ndarray:
  return tf.nn.softmax(tf.constant(logits, tf.float64)).numpy()


def targets(features: Mapping[str, np.ndarray], decoder, rows: slice,
            vocab_size: int) -> np.ndarray:
  """Returns the student's targets at some masked tokens, float64 [N, V]."""
  is_real = features[schema.MASKED_LM_WEIGHTS] > 0
  if decoder:
    return softmax(features[schema.TEACHER_HIDDEN_STATES][is_real][rows]
                   @ decoder.word_embeddings.T + decoder.output_bias)
  indices, probabilities = (
      features[name][is_real][rows] for name in (
          schema.TEACHER_INDICES, schema.TEACHER_PROBABILITIES))
  dense = np.zeros([len(indices), vocab_size])
  np.add.at(dense, (np.arange(len(indices))[:, np.newaxis], indices),
            probabilities)
  return dense


def compare_gradients(formats: Mapping[str, Stored], exact: str
                     ) -> Dict[str, Tuple[float, float]]:
  """Returns the stored probability and the cosine of each format."""
  features = {name: stored.features() for name, stored in formats.items()}
  logits = run_model(FLAGS.student_config_file, FLAGS.student_checkpoint,
                     "masked_lm", features[exact])
  sums = {name: np.zeros(4) for name in formats}
  logits = logits[:_NUM_TOKENS]
  for start in range(0, len(logits), _BLOCK_TOKENS):
    rows = slice(start, min(start + _BLOCK_TOKENS, len(logits)))
    students = softmax(logits[rows])
    teachers = targets(features[exact], formats[exact].decoder, rows,
                       students.shape[1])
    full = students - teachers
    for name, stored in formats.items():
      target = targets(features[name], stored.decoder, rows, students.shape[1])
      found = students * target.sum(axis=1, keepdims=True) - target
      sums[name] += ((found * full).sum(), (found**2).sum(), (full**2).sum(),
                     teachers[target > 0].sum())
  return {name: (share / len(logits), dot / math.sqrt(found * full))
          for name, (dot, found, full, share) in sums.items()}


def take_turns(formats: Mapping[str, Stored]) -> None:
  """Times training steps and reading of all formats in turn."""
  config = dataclasses.replace(
      checkpoints.load_config(FLAGS.student_config_file, FLAGS.max_seq_length),
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
  batch_size = FLAGS.train_batch_size
  for stored in formats.values():
    options = student.StudentOptions(
        config, init_checkpoint=FLAGS.student_checkpoint,
        decoder=stored.decoder, compute_type=devices.compute_type("bf16"),
        for_cpu=not devices.has_gpu())
    stored.stepper = training_step.Stepper(
        lambda features, options=options: training_step.build_step(
            options, features), stored.input_fn(), batch_size,
        devices.session_config())
    stored.stepper.take(training_step.WARM_UP_STEPS)
  for _ in range(FLAGS.turns):
    for stored in formats.values():
      stored.step_seconds.append(
          stored.stepper.take(FLAGS.steps) / FLAGS.steps)
  for _ in range(FLAGS.turns):
    for stored in formats.values():
      stored.speeds.append(reading.speed(
          stored.input_fn()({"batch_size": batch_size}), _READ_BATCHES,
          batch_size))


def compare_hidden_states(features: Mapping[str, np.ndarray],
                          decoder: teacher_decoder.Decoder) -> None:
  """Prints the effect of rounding hidden states on the probabilities."""
  exact = run_model(FLAGS.teacher_config_file, FLAGS.teacher_checkpoint,
                    "hidden_states", features)
  for dtype in (tf.float16, tf.bfloat16):
    rounded = tf.cast(tf.cast(exact, dtype), tf.float32).numpy()
    largest, divergence = 0.0, 0.0
    for start in range(0, len(exact), _BLOCK_TOKENS):
      rows = slice(start, start + _BLOCK_TOKENS)
      p, q = (softmax(states[rows] @ decoder.word_embeddings.T
                      + decoder.output_bias) for states in (exact, rounded))
      largest = max(largest, np.abs(p - q).max())
      divergence += (p * np.log(p / q)).sum()
    sys.stdout.write(
        "{}: probabilities of {:,} masked tokens differ by {:.1e} at most; the "
        "mean KL divergence is {:.1e}\n".format(
            dtype.name, len(exact), largest, divergence / len(exact)))


def main() -> None:
  with tempfile.TemporaryDirectory() as folder:
    source, *_ = files.find_files(FLAGS.input_file, _FLAG)
    masked = os.path.join(folder, "masked.tfrecord")
    some_records.take(source, masked, FLAGS.num_records)
    formats = {name: store(name, format_, masked, folder)
               for name, format_ in _FORMATS.items()}
    compared = compare_gradients(formats, "hidden")
    take_turns(formats)
    sys.stdout.write(
        "| stored | bytes per sequence | stored share of the teacher's "
        "probability | cosine with the full gradient | seconds per step | "
        "sequences/s of the reader |\n|---|---|---|---|---|---|\n")
    for name, stored in formats.items():
      share, cosine = compared[name]
      sys.stdout.write("| {} | {:,.0f} | {:.1%} | {:.4f} | {:.3f} | {:,.0f} |\n"
                       .format(name, os.path.getsize(stored.path)
                               / block_index.count_records(stored.path, _FLAG),
                               share, cosine,
                               statistics.median(stored.step_seconds),
                               statistics.median(stored.speeds)))
    hidden = formats["hidden"]
    compare_hidden_states(hidden.features(), hidden.decoder)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "teacher_config_file", "teacher_checkpoint", "student_config_file",
      "student_checkpoint", _FLAG))
