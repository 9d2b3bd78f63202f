"""Helpers of the tests: a BERT of one layer, its records, runs of scripts."""

import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from distillation import evaluation
from distillation import options as options_module
from distillation import teacher_decoder
import modeling
from records import compact
from records import schema
from records import tfrecord

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = modeling.BertConfig(
    vocab_size=29, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=12, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, max_position_embeddings=16,
    type_vocab_size=2)
SHAPE = schema.RecordShape(
    max_seq_length=10, max_predictions_per_seq=3, truncation_factor=4)
SHAPE_FLAGS = ("--max_seq_length=10", "--max_predictions_per_seq=3")
# The command of the README.
MPIRUN = ("mpirun -np 2 -H localhost:2 -bind-to none -map-by slot "
           "-x NCCL_DEBUG=INFO -x LD_LIBRARY_PATH -x PATH -mca pml ob1 "
           "-mca btl ^openib").split()


def run_script(name, *arguments, cwd=ROOT):
  """Runs a script of the top folder to its end; returns the process."""
  return subprocess.run(
      [sys.executable, str(ROOT / name), *map(str, arguments)], cwd=cwd,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def mpirun(size):
  """Returns the README's launcher for a number of processes."""
  return "mpirun -np {0} -H localhost:{0} {1}".format(
      size, " ".join(MPIRUN[5:])).split()


def launch(launcher, script, *arguments, **variables):
  """Runs a script in several processes to their end; returns the launcher.

  Args:
    launcher: words of the launcher's command.
    script: path of the script.
    *arguments: arguments of the script.
    **variables: additional environment variables.
  """
  return subprocess.run(
      [*launcher, "python", str(script), *map(str, arguments)], cwd=ROOT,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
      text=True, check=False, env=launch_environment(**variables), timeout=300)


def launch_environment(**variables):
  """Returns an environment for launchers, with additional variables."""
  path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
  return dict(
      os.environ, PATH=path, OMPI_ALLOW_RUN_AS_ROOT="1",
      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", **variables)


def assert_one_line_error(result, *words):
  """Checks that a script ended with a one-line error that contains the words.

  The line that names the device may precede the error.
  """
  lines = [line for line in result.stderr.strip().splitlines()
           if "] Running on " not in line]
  assert result.returncode == 1, result.stderr
  assert len(lines) == 1, result.stderr
  for word in words:
    assert str(word) in lines[0]


def write_config(path, config=CONFIG, **changes):
  """Writes a config in the format of Google's BERT; returns its path."""
  values = dict(config.to_dict(), **changes)
  path.write_text(json.dumps(values))
  return path


def random_variables(config=CONFIG, seed=0):
  """Returns random arrays by the names of the model's variables."""
  generator = np.random.default_rng(seed)
  return {
      name: generator.normal(scale=0.3, size=shape).astype(np.float32)
      for name, shape in modeling.variable_shapes(config).items()
  }


def write_checkpoint(path, variables):
  """Writes arrays as a checkpoint; returns its path."""
  tf1 = tf.compat.v1
  with tf.Graph().as_default(), tf1.Session() as session:
    made = [tf1.get_variable(name, initializer=value, use_resource=True)
            for name, value in variables.items()]
    session.run(tf1.global_variables_initializer())
    tf1.train.Saver(made).save(session, str(path), write_meta_graph=False,
                               write_state=False)
  return path


def read_checkpoint(path):
  """Returns the arrays of a checkpoint by name."""
  reader = tf.compat.v1.train.NewCheckpointReader(str(path))
  return {name: reader.get_tensor(name)
          for name in reader.get_variable_to_shape_map()}


def scores(config, variables, features):
  """Runs the project's model; returns masked-LM and next-sentence logits."""
  tf1 = tf.compat.v1
  with tf.Graph().as_default(), tf1.Session() as session:
    outputs = modeling.pretraining_logits(
        config, False, *(
            tf.constant(np.asarray(features[name]), tf.int32) for name in (
                schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS,
                schema.MASKED_LM_POSITIONS)))
    for variable in tf1.trainable_variables():
      variable.load(variables[variable.op.name], session)
    return tuple(session.run(outputs[:2]))


def trainer_inputs(folder):
  """Writes configs, a checkpoint and labelled records; returns the folder."""
  write_config(folder / "bert_config.json")
  write_config(folder / "with_dropout.json", hidden_dropout_prob=0.3,
               attention_probs_dropout_prob=0.3)
  write_checkpoint(folder / "bert_model.ckpt", random_variables())
  write_records(folder / "labelled.tfrecord", random_examples(21, seed=5))
  return folder


def trainer_options(folder, output_dir, **changes):
  """Returns the options of a short run.

  Args:
    folder: folder of the inputs that `trainer_inputs` writes.
    output_dir: output folder of the run.
    **changes: new values of fields in any group of options.
  """
  options = options_module.TrainerOptions(
      output_dir=str(output_dir), do_train=True, do_eval=True,
      model=options_module.ModelOptions(
          bert_config_file=str(folder / "bert_config.json"),
          init_checkpoint=str(folder / "bert_model.ckpt")),
      records=options_module.RecordOptions(
          str(folder / "labelled.tfrecord"), None, *SHAPE[:3]),
      schedule=options_module.ScheduleOptions(
          train_batch_size=2, learning_rate=1e-3, num_train_steps=2,
          num_warmup_steps=0, save_checkpoints_steps=100))
  options = _with_changes(options, changes)
  assert not changes, changes
  return options


def _with_changes(options, changes):
  """Changes fields of nested dataclasses; removes them from `changes`."""
  values = {}
  for field in dataclasses.fields(options):
    value = getattr(options, field.name)
    if dataclasses.is_dataclass(value):
      values[field.name] = _with_changes(value, changes)
    elif field.name in changes:
      value = changes.pop(field.name)
      values[field.name] = (
          str(value) if isinstance(value, pathlib.Path) else value)
  return dataclasses.replace(options, **values)


def read_results(output_dir):
  """Returns eval_results.txt of a run as numbers by key."""
  return evaluation.read_results(
      str(output_dir / evaluation.RESULTS_FILE))


def curves(folder):
  """Returns the values of the TensorBoard curves by tag and step.

  The last value of a repeated step counts: the files' names sort by time.
  """
  found = collections.defaultdict(dict)
  for path in sorted(folder.glob("events*")):
    for event in tf1.train.summary_iterator(str(path)):
      for value in event.summary.value:
        found[value.tag][event.step] = value.simple_value
  return found


def random_examples(count, seed, shape=SHAPE):
  """Returns the features of some records, with labels and padding."""
  generator = np.random.default_rng(seed)
  return [random_features(generator, shape=shape) for _ in range(count)]


def random_features(generator, config=CONFIG, shape=SHAPE):
  """Returns the features of one record, with labels and padding."""
  length, slots, top_k = shape[:3]
  num_tokens = int(generator.integers(max(5, slots), length + 1))
  num_slots = int(generator.integers(1, slots + 1))
  is_token = np.arange(length) < num_tokens
  is_slot = np.arange(slots) < num_slots
  token_ids = generator.integers(0, config.vocab_size, size=(2, length))
  entries = np.stack([generator.permutation(config.vocab_size)[:top_k]
                      for _ in range(slots)])
  probabilities = -np.sort(-generator.dirichlet(
      np.ones(top_k + 1), size=slots)[:, :top_k])
  return {
      schema.INPUT_IDS: token_ids[0] * is_token,
      schema.INPUT_MASK: is_token.astype(int),
      schema.SEGMENT_IDS: (np.arange(length) > num_tokens // 2) * is_token,
      schema.MASKED_LM_POSITIONS: np.sort(
          generator.permutation(num_tokens)[:slots]) * is_slot,
      schema.MASKED_LM_IDS: token_ids[1, :slots] * is_slot,
      schema.MASKED_LM_WEIGHTS: is_slot.astype(np.float32),
      schema.NEXT_SENTENCE_LABELS: generator.integers(0, 2, size=1),
      schema.TEACHER_PROBABILITIES: probabilities * is_slot[:, np.newaxis],
      schema.TEACHER_INDICES: entries * is_slot[:, np.newaxis],
  }


def batch(examples):
  """Returns a batch of float32 and int32 tensors, as the pipeline does."""
  return {name: tf.constant(
      np.stack([features[name] for features in examples]),
      tf.float32 if examples[0][name].dtype.kind == "f" else tf.int32)
          for name in examples[0]}


def without_labels(features):
  """Returns the features of a record without labels, as after stage III."""
  return {name: values for name, values in features.items()
          if name not in schema.LABELS}


def with_hidden_states(features, seed=0, size=CONFIG.hidden_size):
  """Returns the features of a record with hidden states as labels."""
  is_slot = features[schema.MASKED_LM_WEIGHTS][:, np.newaxis] > 0
  hidden_states = np.where(is_slot, np.random.default_rng(seed).normal(
      size=[len(is_slot), size]), 0.0)
  return dict(without_labels(features), **{
      schema.TEACHER_HIDDEN_STATES: hidden_states.astype(np.float16)})


def write_hidden_states(folder, size=CONFIG.hidden_size):
  """Writes records with hidden states, and the decoder; returns the path."""
  folder.mkdir(exist_ok=True)
  generator = np.random.default_rng(7)
  np.savez(folder / teacher_decoder.FILE,
           word_embeddings=generator.normal(
               size=[CONFIG.vocab_size, size]).astype(np.float32),
           output_bias=generator.normal(
               size=CONFIG.vocab_size).astype(np.float32))
  return write_records(folder / "hidden.tfrecord", (
      with_hidden_states(features, seed, size) for seed, features in enumerate(
          random_examples(21, seed=5))))


def serialize(features, layout=None):
  """Serializes the features of one record; with a layout, as compact."""
  return tfrecord.encode(compact.pack(
      {name: np.asarray(values)[np.newaxis]
       for name, values in features.items()}, layout))[0]


def layout(shape=SHAPE, bits=16):
  """Returns the layout of compact records of a shape."""
  return compact.make_layout(shape, CONFIG.vocab_size, bits)


def write_records(path, examples, layout=None):
  """Writes features as a file without a manifest; returns its path."""
  return write_serialized(
      path, (serialize(features, layout) for features in examples))


def write_serialized(path, serialized):
  """Writes serialized records without a manifest; returns the path."""
  path.write_bytes(tfrecord.frame(list(serialized)))
  return path
