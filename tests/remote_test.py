"""Tests of all stages with remote storage.

TensorFlow's file system in memory, ram://, simulates a bucket: no locks, no
fsync, no seeking in a file being written. Other processes do not see it, so the
stages run in this process. Stages with workers use file://, which the project
treats as remote.
"""

import bz2
import errno
import functools
import json
import logging
import tempfile

import numpy as np
import pytest
import tensorflow as tf

from distillation import devices
from distillation import teacher
from distillation import teacher_decoder
from distillation import training
import extract_teacher_labels_truncated as labelling
from extract_wikipedia_for_bert import dump
from extract_wikipedia_for_bert import extract_jsons
from extract_wikipedia_for_bert import extract_wikipedia
from extract_wikipedia_for_bert import output
from extract_wikipedia_for_bert import prose
import multifile_create_pretraining_data as masking
from records import manifest
from records import sampling
from records import tfrecord
import reference_pretraining_data as reference
import split_text
import tiny
from util import files
from util import workers
from util.command_line import InputError

gfile = tf.io.gfile


@pytest.fixture(name="bucket")
def _bucket(request, caplog):
  """An empty folder on ram://."""
  caplog.set_level(logging.INFO, "absl")
  # TensorFlow reads brackets in the path of a checkpoint as a pattern.
  folder = "ram://bucket/" + request.node.name.replace("[", "-").strip("]")
  gfile.makedirs(folder)
  yield folder
  gfile.rmtree(folder)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Inputs of stages IV and V."""
  folder = tiny.trainer_inputs(tmp_path_factory.mktemp("local"))
  tiny.write_records(folder / "masked.tfrecord", map(
      tiny.without_labels, tiny.random_examples(21, seed=5)))
  return folder


def _upload(path, folder):
  """Copies a local file to a remote folder; returns the new path."""
  remote = "{}/{}".format(folder, path.name)
  gfile.copy(str(path), remote)
  return remote


def _names(folder):
  return sorted(gfile.listdir(str(folder)))


def _read(path):
  with gfile.GFile(path, "rb") as file:
    return file.read()


# --- Stage II ----------------------------------------------------------------

_OPTIONS = prose.Options(min_words=1, min_sentences=1)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_wikipedia_is_extracted_to_a_bucket(bucket, caplog, is_compressed):
  xml = """<mediawiki xml:lang="en"><page><title>Ada</title><ns>0</ns><revision>
<text>Ada is a [[name]].</text></revision></page></mediawiki>""".encode()
  with gfile.GFile(bucket + "/dump.xml", "wb") as file:
    file.write(bz2.compress(xml) if is_compressed else xml)
  path = bucket + "/new/wikipedia.txt"
  with output.ArticleWriter(path, "output_file") as writer:
    reader = extract_wikipedia.extract(
        bucket + "/dump.xml", writer, extract_wikipedia.Selection(), _OPTIONS,
        num_workers=1)
    assert not gfile.exists(path)
    writer.finish()
  assert reader.pages_read == 1
  assert _read(path) == b"Ada is a name.\n"
  assert "has no locks" in caplog.text
  assert _names(bucket + "/new") == ["wikipedia.txt"]
  with pytest.raises(InputError, match="exists already"):
    output.ArticleWriter(path, "output_file")


def test_a_damaged_dump_in_a_bucket_leaves_no_text(bucket):
  with gfile.GFile(bucket + "/dump.xml", "wb") as file:
    file.write(b'<mediawiki xml:lang="en"><page>')
  with pytest.raises(InputError, match="truncated"):
    with output.ArticleWriter(bucket + "/a.txt", "output_file") as writer:
      extract_wikipedia.extract(
          bucket + "/dump.xml", writer, extract_wikipedia.Selection(),
          _OPTIONS, num_workers=1)
  assert _names(bucket) == ["dump.xml"]
  with pytest.raises(InputError, match="no file ram://"):
    dump.DumpReader(bucket + "/none.xml")


def test_json_folders_are_read_from_a_bucket(bucket):
  gfile.makedirs(bucket + "/json/AA")
  for i, text in enumerate(["One is a number.", "Two is one more number."]):
    with gfile.GFile("{}/json/AA/wiki_{}".format(bucket, i), "wb") as file:
      file.write(json.dumps({"title": "", "text": text}).encode())
  paths = files.list_files(bucket + "/json", "folder", "", recursive=True)
  with output.ArticleWriter(bucket + "/a.txt", "write_file") as writer:
    assert extract_jsons.extract(paths, writer, _OPTIONS) == 2
    writer.finish()
  assert _read(bucket + "/a.txt") == (
      b"One is a number.\n\nTwo is one more number.\n")


# --- Stage III ---------------------------------------------------------------

_TEXT = "".join("the cat sat on the mat {}\n\n".format("." * i)
                for i in range(1, 40))


def test_a_text_in_a_bucket_is_split(tmp_path, bucket, caplog):
  local = tmp_path / "text.txt"
  local.write_text(_TEXT)
  split_text.split(str(local), 4, str(tmp_path / "split"), "a")
  split_text.split(_upload(local, bucket), 4, bucket + "/split", "a")
  assert "has no locks" in caplog.text
  names = ["a_{}.txt".format(i) for i in range(4)]
  assert _names(bucket + "/split") == [".a.split.json", *names]
  for name in names:
    assert _read("{}/split/{}".format(bucket, name)) == (
        tmp_path / "split" / name).read_bytes()
  with pytest.raises(InputError, match="earlier, larger split"):
    split_text.split(bucket + "/text.txt", 2, bucket + "/split", "a")
  with pytest.raises(InputError, match="would be overwritten"):
    split_text.split(bucket + "/split/a_0.txt", 4, bucket + "/split", "a")


def test_an_interrupted_split_leaves_nothing_in_a_bucket(
    tmp_path, bucket, monkeypatch):
  (tmp_path / "text.txt").write_text(_TEXT)
  copy = split_text._copy  # pylint: disable=protected-access
  calls = []

  def fail_at_third(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
      raise KeyboardInterrupt
    copy(*arguments)

  monkeypatch.setattr(split_text, "_copy", fail_at_third)
  with pytest.raises(KeyboardInterrupt):
    split_text.split(str(tmp_path / "text.txt"), 4, bucket + "/split", "a")
  assert not _names(bucket + "/split")


def _create(input_dir, output_dir, vocab_file, **changes):
  settings = dict(max_seq_length=16, max_predictions_per_seq=3,
                  do_lower_case=True, dupe_factor=2, masked_lm_prob=0.15,
                  short_seq_prob=0.1, do_whole_word_mask=False)
  masking.create(masking.RunOptions(
      str(input_dir), str(output_dir), "a", str(vocab_file),
      sampling.SamplingOptions(**settings),
      **dict(dict(random_seed=1, record_format="example", num_workers=1,
                  overwrite=False), **changes)))


@pytest.fixture(name="in_one_process")
def _in_one_process(monkeypatch):
  """Runs stage III without workers, which do not see ram://."""
  run = workers.run
  monkeypatch.setattr(workers, "run", lambda function, tasks, num_workers,
                      **keywords: run(function, tasks, 0, **keywords))


def _text_folder(tmp_path):
  """Writes two texts and a vocabulary; returns the folder and the file."""
  (tmp_path / "split").mkdir()
  for i in range(2):
    (tmp_path / "split" / "a_{}.txt".format(i)).write_text(_TEXT[i:])
  (tmp_path / "vocab.txt").write_text("\n".join(reference.TOKENS) + "\n")
  return tmp_path / "split", tmp_path / "vocab.txt"


@pytest.mark.usefixtures("in_one_process")
def test_records_are_the_same_in_a_bucket(tmp_path, bucket, caplog):
  texts, vocab_file = _text_folder(tmp_path)
  _create(texts, tmp_path / "out", vocab_file)
  gfile.makedirs(bucket + "/split")
  for path in texts.iterdir():
    _upload(path, bucket + "/split")
  create = functools.partial(_create, bucket + "/split", bucket + "/out",
                             _upload(vocab_file, bucket))
  create()
  assert "has no locks" in caplog.text
  names = sorted(path.name for path in (tmp_path / "out").iterdir())
  assert len(names) == 4
  assert _names(bucket + "/out") == names
  for name in names:
    assert _read("{}/out/{}".format(bucket, name)) == (
        tmp_path / "out" / name).read_bytes()
  caplog.clear()
  gfile.remove(bucket + "/out/a_1.tfrecord.json")
  create()
  assert caplog.text.count("is finished") == 1
  assert "a_1.tfrecord has no manifest" in caplog.text
  with pytest.raises(InputError, match="made differently"):
    create(random_seed=2)
  create(random_seed=2, overwrite=True)
  assert _names(bucket + "/out") == names
  assert manifest.read_manifest(
      bucket + "/out/a_0.tfrecord").flags["random_seed"] == 2


@pytest.mark.usefixtures("in_one_process")
def test_a_full_folder_for_temporary_files_is_named(
    tmp_path, bucket, monkeypatch):
  texts, vocab_file = _text_folder(tmp_path)

  def fail(**unused_keywords):
    raise OSError(errno.ENOSPC, "full")

  monkeypatch.setattr(masking.tempfile, "TemporaryFile", fail)
  with pytest.raises(OSError, match="full") as raised:
    _create(texts, bucket + "/out", vocab_file)
  assert raised.value.filename == tempfile.gettempdir()
  assert not _names(bucket + "/out")


@pytest.mark.slow
def test_workers_read_and_write_remote_files(tmp_path):
  texts, vocab_file = _text_folder(tmp_path)
  scheme = "file://"
  _create(scheme + str(texts), scheme + str(tmp_path / "out"),
          scheme + str(vocab_file), num_workers=2)
  _create(texts, tmp_path / "local", vocab_file)
  for path in sorted((tmp_path / "local").iterdir()):
    assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


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
  assert "ram://" in caplog.text and "from scratch" in caplog.text
  names = ["a.tfrecord", "a.tfrecord.json"]
  if label_format == "hidden":
    names.append("teacher_decoder.npz")
  assert _names(bucket + "/new") == _names(tmp_path) == names
  for name in names[:2]:
    assert _read("{}/new/{}".format(bucket, name)) == (
        tmp_path / name).read_bytes()
  for name in names[2:]:
    assert teacher_decoder.read(
        "{}/new/{}".format(bucket, name)).fingerprint() == teacher_decoder.read(
            str(tmp_path / name)).fingerprint()
  # The same command skips the file; other flags are refused.
  caplog.clear()
  _label(folder, local, output, label_format, record_format=record_format)
  assert "is finished" in caplog.text
  with pytest.raises(InputError, match="made differently"):
    _label(folder, local, output, label_format, record_format=record_format,
           device=devices.DeviceOptions("bf16"))


def test_labels_without_a_manifest_are_replaced(
    tmp_path, folder, bucket, caplog):
  local, output = folder / "masked.tfrecord", bucket + "/a.tfrecord"
  _label(folder, local, tmp_path / "a.tfrecord")
  with gfile.GFile(output, "wb") as file:
    file.write((tmp_path / "a.tfrecord").read_bytes()[:100])
  _label(folder, local, output)
  assert "has no manifest" in caplog.text
  assert list(tfrecord.read(output, "input_file")) == list(
      tfrecord.read(str(tmp_path / "a.tfrecord"), "input_file"))
  assert manifest.read_manifest(output).num_records == 21


def test_an_interrupted_run_leaves_nothing(folder, bucket, monkeypatch):
  label_windows = teacher.Teacher.label_windows

  def fail_after_one(self, windows, num_slots):
    for item in label_windows(self, windows, num_slots):
      yield item
      if item:
        raise KeyboardInterrupt

  monkeypatch.setattr(teacher.Teacher, "label_windows", fail_after_one)
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


@pytest.mark.slow
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_student_is_the_same_in_a_bucket(
    tmp_path, folder, bucket, caplog, is_interrupted):
  _train(folder, tmp_path / "run", 6)
  remote = bucket + "/run"
  inputs = _upload(folder / "labelled.tfrecord", bucket)
  if is_interrupted:
    # A smaller --num_train_steps would change the learning rates.
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
  # The same command finds the training finished.
  caplog.clear()
  _train(folder, remote, 6, input_file=inputs)
  assert "training is finished" in caplog.text


def _stop_after(step, run):
  """Interrupts a run after it saves the checkpoint of a step."""
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
