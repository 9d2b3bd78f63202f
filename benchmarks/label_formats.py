r"""Compares the forms in which the teacher's labels can be stored.

  python benchmarks/label_formats.py \
    --teacher_config_file teacher/bert_config.json \
    --teacher_checkpoint teacher/bert_model.ckpt \
    --student_config_file student/bert_config.json \
    --student_checkpoint student/bert_model.ckpt \
    --input_file data/masked/heldout_0.tfrecord

Labels the first records of a file in each form, with the commands that a user
would give, and prints of each form: bytes a sequence; the share of the
teacher's probability that the stored entries have; the cosine between the
gradient of the student's loss with regard to its logits and that against the
whole distribution, over all masked tokens; seconds a step of training; and
sequences a second of the reader alone. The last two are medians of runs in
turn. Then it says how far float16 and bfloat16 hidden states are from float32.
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
# Masked tokens whose gradients are compared, and how many at a time.
_NUM_TOKENS = 2000
_BLOCK_TOKENS = 500
# The reader takes so many batches in a turn.
_READ_BATCHES = 200


class Form(NamedTuple):
  """A form of labels.

  Attributes:
    label_flags: flags of stage IV.
    record_flags: flags of examples/convert_records.py; None leaves the records
      as stage IV writes them by default.
  """
  label_flags: Mapping[str, Any]
  record_flags: Any = None


def _topk(truncation_factor: int, tail_samples: int = 0, bits: int = 0) -> Form:
  return Form({"truncation_factor": truncation_factor,
               "tail_samples": tail_samples},
              {"probability_bits": bits} if bits else None)


_HIDDEN = {"label_format": "hidden"}
_FORMS: Dict[str, Form] = {
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
    "hidden": Form(_HIDDEN),
    "hidden, compact": Form(_HIDDEN, {}),
}


def define_flags() -> None:
  """Defines the flags of the script."""
  for model in ("teacher", "student"):
    flags.DEFINE_string(model + "_config_file", None,
                        "Config of the {}.".format(model))
    flags.DEFINE_string(model + "_checkpoint", None, "Its checkpoint.")
  flags.DEFINE_string(_FLAG, None, "Masked records.")
  flags.DEFINE_integer("num_records", 1200, "Records to label.")
  input_pipeline.define_flags()
  flags.DEFINE_integer("train_batch_size", 32, "Sequences in a step.")
  flags.DEFINE_integer("turns", 7, "Turns of steps and readers.", lower_bound=1)
  flags.DEFINE_integer("steps", 5, "Steps in a turn.", lower_bound=1)


@dataclasses.dataclass
class Stored:
  """Labels in one form.

  Attributes:
    path: the labelled records.
    shape: of these.
    decoder: of the teacher, for hidden states.
    speeds: sequences a second of the reader, one for each turn.
    stepper: trains on them.
    step_seconds: of a step, one for each turn.
  """
  path: str
  shape: schema.RecordShape
  decoder: Any
  speeds: List[float] = dataclasses.field(default_factory=list)
  stepper: Any = None
  step_seconds: List[float] = dataclasses.field(default_factory=list)

  def input_fn(self):
    """Returns an endless input_fn."""
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
  """Runs a script of the project; raises InputError where it fails."""
  words = ["--{}={}".format(name, value) for name, value in options.items()]
  result = subprocess.run(
      [sys.executable, str(ROOT / script), *words], stderr=subprocess.PIPE,
      text=True, check=False)
  if result.returncode:
    raise InputError("{} has failed: {}".format(
        script, result.stderr.strip().split("\n")[-1]))


def store(name: str, form: Form, masked: str, folder: str) -> Stored:
  """Labels the records in one form."""
  lengths = {"max_seq_length": FLAGS.max_seq_length,
             "max_predictions_per_seq": FLAGS.max_predictions_per_seq}
  slug = "-".join(str(value) for value in form.label_flags.values())
  path = os.path.join(folder, slug, "labelled.tfrecord")
  run("extract_teacher_labels_truncated.py", input_file=masked,
      output_file=path, bert_config_file=FLAGS.teacher_config_file,
      init_checkpoint=FLAGS.teacher_checkpoint, **lengths, **form.label_flags)
  if form.record_flags is not None:
    output_dir = os.path.join(folder, name.replace(" ", ""))
    run("examples/convert_records.py", input_file=path, output_dir=output_dir,
        **form.record_flags)
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
    config_file: of the model.
    checkpoint: of the model.
    output: a field of what `modeling.pretraining_logits` returns.
    features: what it reads.
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
  """Returns what a student learns of some masked tokens, float64 [N, V]."""
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


def compare_gradients(forms: Mapping[str, Stored], exact: str
                     ) -> Dict[str, Tuple[float, float]]:
  """Returns of each form the share of the mass and the cosine."""
  features = {name: stored.features() for name, stored in forms.items()}
  logits = run_model(FLAGS.student_config_file, FLAGS.student_checkpoint,
                     "masked_lm", features[exact])
  sums = {name: np.zeros(4) for name in forms}
  logits = logits[:_NUM_TOKENS]
  for start in range(0, len(logits), _BLOCK_TOKENS):
    rows = slice(start, min(start + _BLOCK_TOKENS, len(logits)))
    students = softmax(logits[rows])
    teachers = targets(features[exact], forms[exact].decoder, rows,
                       students.shape[1])
    full = students - teachers
    for name, stored in forms.items():
      target = targets(features[name], stored.decoder, rows, students.shape[1])
      found = students * target.sum(axis=1, keepdims=True) - target
      sums[name] += ((found * full).sum(), (found**2).sum(), (full**2).sum(),
                     teachers[target > 0].sum())
  return {name: (share / len(logits), dot / math.sqrt(found * full))
          for name, (dot, found, full, share) in sums.items()}


def take_turns(forms: Mapping[str, Stored]) -> None:
  """Times steps and readers of all forms in turn."""
  config = dataclasses.replace(
      checkpoints.load_config(FLAGS.student_config_file, FLAGS.max_seq_length),
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
  batch_size = FLAGS.train_batch_size
  for stored in forms.values():
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
    for stored in forms.values():
      stored.step_seconds.append(
          stored.stepper.take(FLAGS.steps) / FLAGS.steps)
  for _ in range(FLAGS.turns):
    for stored in forms.values():
      stored.speeds.append(reading.speed(
          stored.input_fn()({"batch_size": batch_size}), _READ_BATCHES,
          batch_size))


def compare_hidden_states(features: Mapping[str, np.ndarray],
                          decoder: teacher_decoder.Decoder) -> None:
  """Prints how far rounded hidden states are from float32 ones."""
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
        "{}: probabilities of {:,} masked tokens differ by {:.1e} at most, KL "
        "{:.1e} on average\n".format(
            dtype.name, len(exact), largest, divergence / len(exact)))


def main() -> None:
  with tempfile.TemporaryDirectory() as folder:
    source, *_ = files.find_files(FLAGS.input_file, _FLAG)
    masked = os.path.join(folder, "masked.tfrecord")
    some_records.take(source, masked, FLAGS.num_records)
    forms = {name: store(name, form, masked, folder)
             for name, form in _FORMS.items()}
    compared = compare_gradients(forms, "hidden")
    take_turns(forms)
    sys.stdout.write(
        "| stored | bytes a sequence | share of the teacher's mass | cosine "
        "with the full gradient | seconds a step | sequences/s of the reader "
        "|\n|---|---|---|---|---|---|\n")
    for name, stored in forms.items():
      share, cosine = compared[name]
      sys.stdout.write("| {} | {:,.0f} | {:.1%} | {:.4f} | {:.3f} | {:,.0f} |\n"
                       .format(name, os.path.getsize(stored.path)
                               / block_index.count_records(stored.path, _FLAG),
                               share, cosine,
                               statistics.median(stored.step_seconds),
                               statistics.median(stored.speeds)))
    compare_hidden_states(forms["hidden"].features(), forms["hidden"].decoder)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "teacher_config_file", "teacher_checkpoint", "student_config_file",
      "student_checkpoint", _FLAG))
