"""Tests of hidden states as labels: losses, storage, training."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from distillation import checkpoints
from distillation import losses
from distillation import teacher
from distillation import teacher_decoder
from distillation import training
import modeling
import processes
from records import decoding
from records import input_pipeline
from records import manifest
from records import record_writer
from records import schema
import tiny
from util import files
from util.command_line import InputError

tf1 = tf.compat.v1
_SHAPE = tiny.SHAPE._replace(truncation_factor=0, teacher_hidden_size=8)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Folder with the inputs of a trainer and records with hidden states."""
  folder = tiny.trainer_inputs(tmp_path_factory.mktemp("hidden"))
  tiny.write_hidden_states(folder)
  return folder


def _run(folder, output_dir, **changes):
  training.run(tiny.trainer_options(folder, output_dir, **{
      "input_file": folder / "hidden.tfrecord", **changes}))


# --- Losses ------------------------------------------------------------------


def _random_labels(num_slots=5, hidden_size=6, vocab_size=11):
  """Returns hidden states with a decoder, and their logits in float64."""
  generator = np.random.default_rng(0)
  arrays = [generator.normal(size=size).astype("f") for size in (
      (num_slots, hidden_size), (vocab_size, hidden_size), vocab_size)]
  logits = arrays[0].astype(float) @ arrays[1].T + arrays[2]
  return losses.TeacherHiddenStates(*map(tf.constant, arrays)), logits


def _softmax(logits):
  exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return exponentials / exponentials.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_loss_is_the_full_cross_entropy(temperature, weight):
  labels, teacher_logits = _random_labels()
  logits = np.random.default_rng(1).normal(size=(5, 11)).astype("f")
  hard_labels = np.array([3, 0, 10, 4, 4], np.int32)
  with tf.GradientTape() as tape:
    student = tf.constant(logits)
    tape.watch(student)
    found = losses.masked_lm_losses(
        losses.LossOptions(hard_label_weight=weight, temperature=temperature),
        tf.constant(0.0), student, tf.constant(hard_labels),
        tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.constant(hard_labels), student), labels)
  teacher_probabilities = _softmax(teacher_logits / temperature)
  probabilities = _softmax(logits / temperature)
  hard = np.eye(11)[hard_labels]
  np.testing.assert_allclose(
      found, (1 - weight) * temperature ** 2 * -np.sum(
          teacher_probabilities * np.log(probabilities), axis=-1)
      + weight * -np.sum(hard * np.log(_softmax(logits)), axis=-1), rtol=1e-5)
  np.testing.assert_allclose(
      tape.gradient(found, student),
      (1 - weight) * temperature * (probabilities - teacher_probabilities)
      + weight * (_softmax(logits) - hard), atol=1e-6)


def test_the_loss_equals_that_of_all_entries_as_top_k():
  labels, teacher_logits = _random_labels()
  logits = tf.random.stateless_normal((5, 11), seed=[1, 2])
  entries = losses.truncate(tf.constant(teacher_logits, tf.float32), 11)
  np.testing.assert_allclose(
      losses.teacher_losses(logits, labels),
      losses.teacher_losses(logits, entries), rtol=1e-5)


def test_cosines_by_hand():
  np.testing.assert_allclose(losses.hidden_cosine_losses(
      tf.constant([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]),
      tf.constant([[6.0, 8.0], [5.0, 0.0], [-2.0, 0.0]])), [0, 1, 2], atol=1e-6)


def test_stored_hidden_states_equal_a_live_teacher():
  """Compares loss and gradient with a teacher of two layers in the graph."""
  config = modeling.BertConfig(**dict(
      tiny.CONFIG.to_dict(), num_hidden_layers=2))
  variables = tiny.random_variables(config)
  examples = tiny.random_examples(4, seed=3)
  features = [tf.constant(np.stack([features[name] for features in examples]),
                          tf.int32).numpy()
              for name in (schema.INPUT_IDS, schema.INPUT_MASK,
                           schema.SEGMENT_IDS, schema.MASKED_LM_POSITIONS)]
  logits = np.random.default_rng(1).normal(size=(12, 29)).astype("f")

  with tf.Graph().as_default(), tf1.Session() as session:
    outputs = modeling.pretraining_logits(
        config, False, *map(tf.constant, features))
    for variable in tf1.trainable_variables():
      variable.load(variables[variable.op.name], session)
    student = tf.constant(logits)
    live = tf.reduce_sum(-tf.nn.softmax(outputs.masked_lm)
                         * tf.nn.log_softmax(student), axis=-1)
    hidden_states = session.run(outputs.hidden_states)
    for dtype, tolerance in ((np.float32, 1e-5), (np.float16, 2e-3)):
      stored = losses.teacher_losses(student, losses.TeacherHiddenStates(
          tf.constant(hidden_states.astype(dtype).astype("f")),
          tf.constant(variables["bert/embeddings/word_embeddings"]),
          tf.constant(variables["cls/predictions/output_bias"])))
      for values in zip(*session.run([
          [losses_, tf.gradients(losses_, student)[0]]
          for losses_ in (live, stored)])):
        np.testing.assert_allclose(*values, atol=tolerance)


# --- Storage -----------------------------------------------------------------


def test_the_stored_hidden_states_give_the_labels_of_the_teacher(tmp_path):
  checkpoint = str(tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", tiny.random_variables()))
  examples = tiny.random_examples(11, seed=3)
  features = {name: np.stack([features[name] for features in examples])
              for name in examples[0]}
  is_real = features[schema.MASKED_LM_WEIGHTS] > 0
  entries, hidden = (
      teacher.Teacher(tiny.CONFIG, checkpoint, teacher.LabelOptions(
          label_format=label_format, truncation_factor=29)).label(features, 0)
      for label_format in ("topk", "hidden"))
  np.testing.assert_array_equal(entries.predictions, hidden.predictions)
  decoder = checkpoints.read_decoder(checkpoint)
  stored = hidden.features[schema.TEACHER_HIDDEN_STATES]
  assert stored.dtype == np.float16
  distribution = _softmax(stored[is_real].astype(float)
                          @ decoder.word_embeddings.T + decoder.output_bias)
  np.testing.assert_allclose(
      np.take_along_axis(
          distribution, entries.features[schema.TEACHER_INDICES][is_real], -1),
      entries.features[schema.TEACHER_PROBABILITIES][is_real], atol=1e-3)


def test_records_hold_hidden_states_unchanged():
  examples = [tiny.with_hidden_states(features, seed) for seed, features in
              enumerate(tiny.random_examples(3, seed=2))]
  decoded = decoding.decode(
      tf.constant(list(map(tiny.serialize, examples))), _SHAPE)
  for i, features in enumerate(examples):
    np.testing.assert_array_equal(
        decoded[schema.TEACHER_HIDDEN_STATES][i],
        features[schema.TEACHER_HIDDEN_STATES].astype("f"))
  short = tiny.serialize(tiny.with_hidden_states(
      tiny.random_examples(1, seed=2)[0], size=7))
  with pytest.raises(InputError, match="has other lengths.*hidden_states"):
    with input_pipeline.record_errors("input_file"):
      decoding.decode(tf.constant([short]), _SHAPE)


def test_a_decoder_is_stored_once(tmp_path):
  values = np.arange(12, dtype="f").reshape(4, 3)
  decoder = teacher_decoder.Decoder(values, values[:, 0])
  record_file = str(tmp_path / "folder" / "a.tfrecord")
  teacher_decoder.store(decoder, record_file)
  path = teacher_decoder.path_beside(record_file)
  content = (tmp_path / "folder" / "teacher_decoder.npz").read_bytes()
  found = teacher_decoder.read(path)
  assert found.fingerprint() == decoder.fingerprint()
  assert (found.vocab_size, found.hidden_size) == (4, 3)
  teacher_decoder.store(decoder, record_file)
  other = teacher_decoder.Decoder(values + 1, values[:, 0])
  with pytest.raises(InputError,
                     match="to another teacher.*another folder"):
    teacher_decoder.store(other, record_file)
  stored = tmp_path / "folder" / "teacher_decoder.npz"
  assert stored.read_bytes() == content
  stored.write_bytes(content[:-1])  # A damaged decoder may be replaced.
  teacher_decoder.store(other, record_file)
  assert teacher_decoder.read(path).fingerprint() == other.fingerprint()


_STORE = """
import numpy as np
from distillation import teacher_decoder
teacher_decoder.store(teacher_decoder.Decoder(
    np.ones((4, 3), "f"), np.ones(4, "f")), {!r})
"""


def test_a_process_waits_for_a_decoder_that_another_writes(tmp_path):
  """Processes label several files of one folder at the same time."""
  record_file = str(tmp_path / "a.tfrecord")
  path = teacher_decoder.path_beside(record_file)
  with files.PartialFile(path) as partial:
    process = processes.start(
        [sys.executable, "-c", _STORE.format(record_file)],
        cwd=str(tiny.ROOT), stderr=subprocess.PIPE, text=True)
    processes.wait_until(
        lambda: _is_waiting(process.pid, files.partial_path(path)), process)
    np.savez(partial.file, word_embeddings=np.ones((4, 3), "f"),
             output_bias=np.ones(4, "f"))
    partial.commit()
  assert process.communicate()[1] == "" and process.returncode == 0
  assert teacher_decoder.read(path).hidden_size == 3
  assert list(tmp_path.iterdir()) == [tmp_path / "teacher_decoder.npz"]


def _is_waiting(process_id, path):
  """Returns whether a process waits for the lock of a file."""
  inode = ":{} ".format(os.stat(path).st_ino)
  with open("/proc/locks", encoding="ascii") as locks:
    return any("->" in line and " {} ".format(process_id) in line
               and inode in line for line in locks)


@pytest.mark.parametrize("content", [
    b"", b"PK", b"x" * 100, {"word_embeddings": np.zeros((4, 3), "f")},
    {"word_embeddings": np.zeros((4, 3), "f"), "output_bias": np.zeros(3, "f")},
    {"word_embeddings": np.array([None]), "output_bias": np.zeros(3, "f")}])
def test_a_file_without_a_valid_decoder_is_an_input_error(tmp_path, content):
  path = tmp_path / "teacher_decoder.npz"
  if isinstance(content, bytes):
    path.write_bytes(content)
  else:
    np.savez(path, **content)
  with pytest.raises(InputError, match="decoder.npz.*copy the file from"):
    teacher_decoder.read(str(path))


def test_a_damaged_decoder_is_an_input_error_or_intact(tmp_path):
  decoder = teacher_decoder.Decoder(
      np.arange(12, dtype="f").reshape(4, 3), np.ones(4, "f"))
  teacher_decoder.store(decoder, str(tmp_path / "a.tfrecord"))
  path = tmp_path / "teacher_decoder.npz"
  content = path.read_bytes()
  generator = np.random.default_rng(0)
  num_refused = 0
  for position in range(len(content)):
    damaged = bytearray(content)
    damaged[position] ^= int(generator.integers(1, 256))
    path.write_bytes(bytes(damaged))
    try:
      found = teacher_decoder.read(str(path))
      assert [values.tolist() for values in found] == [
          values.tolist() for values in decoder], position
    except InputError:
      num_refused += 1
  assert num_refused > len(content) / 3


def test_a_decoder_is_read_from_remote_storage():
  content = io.BytesIO()
  np.savez(content, word_embeddings=np.ones((4, 3), "f"),
           output_bias=np.ones(4, "f"))
  with tf.io.gfile.GFile("ram://decoders/teacher_decoder.npz", "wb") as file:
    file.write(content.getvalue())
  path = teacher_decoder.path_beside("ram://decoders/a.tfrecord")
  assert teacher_decoder.read(path).vocab_size == 4


# --- Training ----------------------------------------------------------------


@pytest.mark.slow
def test_training_learns_the_whole_distribution(tmp_path, folder):
  """Records with hidden states fit any temperature; this one is 2."""
  _run(folder, tmp_path / "out", temperature=2.0, num_train_steps=30,
       learning_rate=1e-2)
  before, after = (
      _evaluate(folder, tmp_path / name, init_checkpoint=checkpoint,
                temperature=2.0)
      for name, checkpoint in (
          ("before", folder / "bert_model.ckpt"),
          ("after", tmp_path / "out" / "student" / "bert_model.ckpt")))
  assert after["kl_from_teacher"] < 0.9 * before["kl_from_teacher"]
  trained = tiny.read_results(tmp_path / "out")
  assert after["kl_from_teacher"] == pytest.approx(
      trained["kl_from_teacher"], rel=1e-5)


def _evaluate(folder, output_dir, **changes):
  _run(folder, output_dir, do_train=False, **changes)
  return tiny.read_results(output_dir)


def test_evaluation_compares_with_the_most_probable_tokens(tmp_path, folder):
  """The metrics equal those of records that store these tokens."""
  decoder = teacher_decoder.read(str(folder / teacher_decoder.FILE))
  examples = []
  for seed, features in enumerate(tiny.random_examples(21, seed=5)):
    hidden = tiny.with_hidden_states(features, seed)
    distribution = _softmax(
        hidden[schema.TEACHER_HIDDEN_STATES].astype(float)
        @ decoder.word_embeddings.T + decoder.output_bias)
    best = np.argsort(-distribution, axis=-1)[:, :4]
    examples.append(dict(features, **{
        schema.TEACHER_INDICES: best,
        schema.TEACHER_PROBABILITIES: np.take_along_axis(
            distribution, best, -1)}))
  tiny.write_records(tmp_path / "entries.tfrecord", examples)
  of_hidden = _evaluate(folder, tmp_path / "hidden")
  of_entries = _evaluate(folder, tmp_path / "entries",
                         input_file=tmp_path / "entries.tfrecord")
  for name, value in of_entries.items():
    # The training loss differs: it sums over all or only over stored tokens.
    if "training_loss" not in name and name not in ("loss", "masked_lm_loss"):
      assert of_hidden[name] == pytest.approx(value, rel=1e-4), name
  assert of_hidden["masked_lm_loss"] > of_entries["masked_lm_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_the_projection_of_the_cosine_loss_is_not_exported(
    tmp_path, folder, num_micro_batches):
  wide = tiny.write_hidden_states(tmp_path / "wide", size=12)
  changes = dict(input_file=wide, hidden_cosine_weight=2.0,
                 hidden_projection=True,
                 gradient_accumulation_steps=num_micro_batches)
  output_dir = tmp_path / "out"
  _run(folder, output_dir, **changes)
  variables = tiny.read_checkpoint(output_dir / "model.ckpt-2")
  assert variables[checkpoints.HIDDEN_PROJECTION].shape == (8, 12)
  assert not any("teacher_decoder" in name for name in variables)
  student = tiny.read_checkpoint(output_dir / "student" / "bert_model.ckpt")
  assert set(student) == set(modeling.variable_shapes(tiny.CONFIG))
  _run(folder, output_dir, **changes, num_train_steps=4)
  assert tiny.read_results(output_dir)["global_step"] == 4
  cosines = tiny.curves(output_dir)["hidden_cosine_loss"].values()
  assert cosines and all(0 < value < 2 for value in cosines)


@pytest.mark.slow
@pytest.mark.parametrize("changes, told", [
    ({"hidden_cosine_weight": 0.0, "hidden_projection": False},
     "--hidden_projection=True does not fit.*without a projection: leave out"),
    ({"input_file": "hidden.tfrecord"},
     "hidden_size 12, but .*ckpt-2 was trained with a teacher with hidden_size "
     "8"),
])
def test_resuming_with_another_projection_is_refused(
    tmp_path, folder, changes, told):
  wanted = dict(input_file=tiny.write_hidden_states(tmp_path / "wide", size=12),
                hidden_cosine_weight=2.0, hidden_projection=True)
  if "input_file" in changes:
    changes = dict(changes, input_file=folder / changes["input_file"])
  _run(folder, tmp_path / "out", **dict(wanted, **changes), do_eval=False)
  with pytest.raises(InputError, match=told):
    _run(folder, tmp_path / "out", **wanted, num_train_steps=4)


@pytest.mark.parametrize("changes, told", [
    ({"tail_mass": "bucket"}, "--tail_mass=bucket has no meaning.*hidden"),
    ({"hidden_projection": True},
     "--hidden_projection=True has no effect.*--hidden_cosine_weight"),
    ({"input_file": "labelled.tfrecord", "hidden_cosine_weight": 1.0},
     "--hidden_cosine_weight=1.0 needs.*--label_format=hidden"),
    ({"input_file": "wide/hidden.tfrecord", "hidden_cosine_weight": 1.0},
     "hidden_size 8 and the teacher 12: set --hidden_projection=True"),
    ({"input_file": "labelled.tfrecord,hidden.tfrecord"},
     "hidden.tfrecord has labels of another --label_format"),
    ({"input_file": "hidden.tfrecord,wide/hidden.tfrecord"},
     "wide.*has 36 values instead of 24"),
    ({"input_file": "elsewhere.tfrecord"}, "decoder.npz is missing.*copy"),
    ({"input_file": "of_another.tfrecord"}, "not the decoder of the teacher "),
    ({"bert_config_file": "large.json", "init_checkpoint": None},
     "vocab_size 31.*teacher.*has 29"),
    ({"use_tpu": True}, "--use_tpu=True does not read the hidden states"),
])
def test_bad_input_is_found_before_anything_is_written(
    tmp_path, folder, changes, told):
  inputs = tmp_path / "inputs"
  inputs.mkdir()
  for path in folder.iterdir():
    (inputs / path.name).symlink_to(path)
  tiny.write_hidden_states(inputs / "wide", size=12)
  tiny.write_config(inputs / "large.json", vocab_size=31)
  content = (folder / "hidden.tfrecord").read_bytes()
  if changes.get("input_file") == "elsewhere.tfrecord":
    (inputs / "elsewhere.tfrecord").write_bytes(content)
    (inputs / teacher_decoder.FILE).unlink()
  if changes.get("input_file") == "of_another.tfrecord":
    with record_writer.RecordWriter(
        str(inputs / "of_another.tfrecord")) as writer:
      for features in tiny.random_examples(2, seed=1):
        writer.write(tiny.serialize(tiny.with_hidden_states(features)))
      writer.commit(manifest.Manifest(
          "extract_teacher_labels_truncated", {"label_format": "hidden"},
          {"teacher_decoder": "0" * 64}, {}, 29))
  changes = {
      name: ",".join(str(inputs / path) for path in value.split(","))
      if name.endswith("_file") else value for name, value in changes.items()}
  with pytest.raises(InputError, match=told):
    _run(folder, tmp_path / "out", **changes)
  assert not (tmp_path / "out").exists()
