"""Tests of stages IV and V in remote storage.

TensorFlow's file system in memory, ram://, stands for a bucket: it has no
locks, no fsync, no position in a file that is written. It lasts as long as its
process, so the scripts run in this one.
"""

import logging

import numpy as np
import pytest
import tensorflow as tf

from distillation import devices
from distillation import teacher
from distillation import training
import extract_teacher_labels_truncated as labelling
from records import manifest
from records import tfrecord
import tiny
from util import files
from util.command_line import InputError

gfile = tf.io.gfile


@pytest.fixture(name="bucket")
def _bucket(request, caplog):
  """An empty folder in memory."""
  caplog.set_level(logging.INFO, "absl")
  files.set_remote_files(gfile)
  # TensorFlow takes brackets in the name of a checkpoint for a pattern.
  folder = "ram://bucket/" + request.node.name.replace("[", "-").strip("]")
  gfile.makedirs(folder)
  yield folder
  gfile.rmtree(folder)
  files.set_remote_files(None)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Inputs of both stages."""
  folder = tiny.trainer_inputs(tmp_path_factory.mktemp("local"))
  tiny.write_records(folder / "masked.tfrecord", map(
      tiny.without_labels, tiny.random_examples(21, seed=5)))
  return folder


def _upload(path, folder):
  """Copies a local file to a folder in memory; returns its path."""
  remote = "{}/{}".format(folder, path.name)
  gfile.copy(str(path), remote)
  return remote


def _names(folder):
  return sorted(gfile.listdir(str(folder)))


# --- Stage IV ----------------------------------------------------------------


def _label(folder, input_file, output_file, label_format="topk",
           overwrite=False, **changes):
  options = {"truncation_factor": 4} if label_format == "topk" else {}
  labelling.label(
      labelling.FileOptions(
          str(folder / "bert_config.json"), str(folder / "bert_model.ckpt"),
          str(input_file), str(output_file), *tiny.SHAPE[:2],
          changes.pop("record_format", "example"), "16", overwrite),
      teacher.LabelOptions(label_format, batch_size=2, **options, **changes),
      labelling.Process())


@pytest.mark.parametrize("label_format, record_format", [
    ("topk", "example"), ("topk", "compact"), ("hidden", "example")])
def test_labels_are_the_same_in_a_bucket(
    tmp_path, folder, bucket, caplog, label_format, record_format):
  local = folder / "masked.tfrecord"
  _label(folder, local, tmp_path / "a.tfrecord", label_format,
         record_format=record_format)
  output = bucket + "/new/a.tfrecord"
  _label(folder, _upload(local, bucket), output, label_format,
         record_format=record_format)
  assert "ram://" in caplog.text and "begins it again" in caplog.text
  names = ["a.tfrecord", "a.tfrecord.json"]
  if label_format == "hidden":
    names.append("teacher_decoder.npz")
  assert _names(bucket + "/new") == _names(tmp_path) == names
  for name in names[:2]:
    with gfile.GFile("{}/new/{}".format(bucket, name), "rb") as file:
      assert file.read() == (tmp_path / name).read_bytes()
  # It is finished, and kept; another one is refused.
  caplog.clear()
  _label(folder, local, output, label_format, record_format=record_format)
  assert "is finished" in caplog.text
  with pytest.raises(InputError, match="made differently"):
    _label(folder, local, output, label_format, record_format=record_format,
           device=devices.DeviceOptions("bf16"))


def test_what_has_no_manifest_is_made_again(tmp_path, folder, bucket, caplog):
  local, output = folder / "masked.tfrecord", bucket + "/a.tfrecord"
  _label(folder, local, tmp_path / "a.tfrecord")
  with gfile.GFile(output, "wb") as file:
    file.write((tmp_path / "a.tfrecord").read_bytes()[:100])
  _label(folder, local, output)
  assert "has no manifest" in caplog.text
  assert list(tfrecord.read(output, "input_file")) == list(
      tfrecord.read(str(tmp_path / "a.tfrecord"), "input_file"))
  assert manifest.read_manifest(output).num_records == 21


def test_a_run_that_fails_leaves_nothing(folder, bucket, monkeypatch):
  def fail(*unused_arguments):
    raise KeyboardInterrupt

  label = teacher.Teacher.label
  monkeypatch.setattr(teacher.Teacher, "label", lambda self, features, first: (
      fail() if first else label(self, features, first)))
  monkeypatch.setattr(teacher, "_WINDOW_BATCHES", 2)
  with pytest.raises(KeyboardInterrupt):
    _label(folder, folder / "masked.tfrecord", bucket + "/a.tfrecord")
  assert not _names(bucket)


# --- Stage V -----------------------------------------------------------------


def _train(folder, output_dir, num_train_steps, input_file=None, **changes):
  training.run(tiny.trainer_options(
      folder, output_dir, num_train_steps=num_train_steps,
      save_checkpoints_steps=2, keep_checkpoint_max=2, max_eval_steps=3,
      eval_every_checkpoint=True,
      input_file=input_file or folder / "labelled.tfrecord", **changes))


def _results(folder):
  return files.read_text("{}/eval_results.txt".format(folder))


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_student_is_the_same_in_a_bucket(
    tmp_path, folder, bucket, caplog, is_interrupted):
  _train(folder, tmp_path / "run", 6)
  remote = bucket + "/run"
  inputs = _upload(folder / "labelled.tfrecord", bucket)
  if is_interrupted:
    # A training that ends early goes by another schedule of learning rates.
    _stop_after(4, lambda: _train(folder, remote, 6, input_file=inputs))
  _train(folder, remote, 6, input_file=inputs)
  assert "has no locks" in caplog.text
  for name in ("model.ckpt-6", "student/bert_model.ckpt"):
    wanted = tiny.read_checkpoint(tmp_path / "run" / name)
    found = tiny.read_checkpoint("{}/{}".format(remote, name))
    assert set(found) == set(wanted)
    for variable, value in wanted.items():
      np.testing.assert_array_equal(found[variable], value)
  for name in ("", "/best", "/student"):
    assert _results(remote + name) == _results(str(tmp_path / "run") + name)
  for name in ("/best", "/student"):
    assert _names(remote + name) == _names(str(tmp_path / "run") + name)
  assert not [name for name in _names(remote) if name.startswith(".")]
  # The same command once more finds all of it finished.
  caplog.clear()
  _train(folder, remote, 6, input_file=inputs)
  assert "training is finished" in caplog.text


def _stop_after(step, run):
  """Interrupts a run after it has saved a step."""
  save = tf.compat.v1.train.Saver.save

  def save_and_stop(self, session, path, global_step=None, **keywords):
    saved = save(self, session, path, global_step=global_step, **keywords)
    if global_step is not None and int(session.run(global_step)
                                       if tf.is_tensor(global_step)
                                       else global_step) == step:
      raise KeyboardInterrupt
    return saved

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tf.compat.v1.train.Saver, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
      run()
