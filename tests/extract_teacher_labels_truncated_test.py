"""Tests of the extraction of teacher labels, as a script."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

import records
import reference_bert
import tiny

_SCRIPT = "extract_teacher_labels_truncated.py"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """A config, a checkpoint and two files of unlabelled records."""
  folder = tmp_path_factory.mktemp("teacher")
  tiny.write_config(folder / "bert_config.json")
  tiny.write_checkpoint(folder / "bert_model.ckpt", tiny.random_variables())
  generator = np.random.default_rng(3)
  for name, count in (("masked_2.tfrecord", 7), ("masked_10.tfrecord", 4)):
    examples = [tiny.random_features(generator) for _ in range(count)]
    for features in examples:
      del features[records.TEACHER_PROBABILITIES]
      del features[records.TEACHER_INDICES]
    tiny.write_records(folder / name, examples)
  return folder


def _arguments(folder, output_file, *more, **changes):
  values = dict({
      "bert_config_file": folder / "bert_config.json",
      "input_file": folder / "masked_*.tfrecord",
      "output_file": output_file,
      "init_checkpoint": folder / "bert_model.ckpt",
      "truncation_factor": 4,
  }, **changes)
  return [*tiny.SHAPE_FLAGS, *more, *(
      "--{}={}".format(name, value) for name, value in values.items())]


def _run(*arguments, **changes):
  return tiny.run_script(_SCRIPT, *_arguments(*arguments, **changes))


def _decode(paths, shape=tiny.SHAPE):
  serialized = [record for path in paths
                for record in records.read_records(str(path), "input_file")]
  return {name: value.numpy() for name, value in records.decode(
      tf.constant(serialized), shape).items()}


def test_help_lists_the_flags_with_their_defaults():
  result = tiny.run_script(_SCRIPT, "--help")
  assert result.returncode == 0
  for line in ("bert_config_file (required)", "input_file (required)",
               "output_file (required)", "init_checkpoint (required)",
               "truncation_factor (default: 10)",
               "max_seq_length (default: 128)",
               "max_predictions_per_seq (default: 20)",
               "batch_size (default: 32)", "overwrite (default: False)",
               "precision (default: fp32)", "use_xla (default: False)",
               "temperature (default: 1.0)", "tail_samples (default: 0)",
               "random_seed (default: 12345)"):
    assert "  --" + line in result.stdout


def test_labels_are_the_teachers_best_words_beside_the_inputs(
    tmp_path, folder):
  output = tmp_path / "new_folder" / "labelled.tfrecord"
  result = _run(folder, output, "--batch_size", "3")
  assert result.returncode == 0, result.stderr
  labelled = _decode([output])
  unlabelled = _decode(
      [folder / "masked_2.tfrecord", folder / "masked_10.tfrecord"],
      tiny.SHAPE._replace(truncation_factor=0))
  for name, values in unlabelled.items():
    np.testing.assert_array_equal(labelled[name], values)
  scores, _ = reference_bert.forward(
      {name: np.float64(value)
       for name, value in tiny.random_variables().items()},
      {name: tf.constant(values, tf.int64 if values.dtype == np.int32
                         else tf.float64)
       for name, values in unlabelled.items()}, tiny.CONFIG)
  probabilities, indices = tf.math.top_k(tf.nn.softmax(scores), 4)
  is_slot = unlabelled[records.MASKED_LM_WEIGHTS] > 0
  assert 0 < is_slot.mean() < 1
  found = labelled[records.TEACHER_PROBABILITIES]
  np.testing.assert_allclose(found[is_slot], probabilities.numpy()[is_slot],
                             atol=1e-6)
  np.testing.assert_array_equal(labelled[records.TEACHER_INDICES][is_slot],
                                indices.numpy()[is_slot])
  assert not found[~is_slot].any()
  assert not labelled[records.TEACHER_INDICES][~is_slot].any()

  manifest = json.loads((output.parent / "labelled.tfrecord.json").read_text())
  assert manifest["num_records"] == 11
  assert manifest["sources"] == {
      name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
      for name in ("masked_2.tfrecord", "masked_10.tfrecord")}
  assert manifest["flags"]["truncation_factor"] == 4

  # The same command again keeps the file; another one is refused.
  content, written = output.read_bytes(), output.stat().st_mtime_ns
  again = _run(folder, output, "--batch_size", "5")
  assert again.returncode == 0
  assert len(again.stderr.splitlines()) == 1 and "finished" in again.stderr
  tiny.assert_one_line_error(
      _run(folder, output, truncation_factor=5), "--truncation_factor is 5",
      "not 4", "--overwrite")
  assert output.read_bytes() == content
  assert output.stat().st_mtime_ns == written
  replaced = _run(folder, output, "--overwrite", "True", truncation_factor=2)
  assert replaced.returncode == 0
  assert _decode([output], tiny.SHAPE._replace(truncation_factor=2))[
      records.TEACHER_INDICES].shape == (11, 3, 2)


def test_the_golden_labels(tmp_path, shared):
  teacher = shared / "data/teacher"
  result = tiny.run_script(
      _SCRIPT, "--bert_config_file", teacher / "bert_config.json",
      "--init_checkpoint", teacher / "bert_model.ckpt", "--input_file",
      shared / "golden/teacher_labels/input.tfrecord",
      "--output_file", tmp_path / "labelled.tfrecord")
  assert result.returncode == 0, result.stderr
  shape = records.RecordShape(128, 20, 10)
  found = _decode([tmp_path / "labelled.tfrecord"], shape)
  wanted = _decode([shared / "golden/teacher_labels/expected.tfrecord"], shape)
  is_slot = wanted[records.MASKED_LM_WEIGHTS] > 0
  for name, values in wanted.items():
    if name not in (records.TEACHER_PROBABILITIES, records.TEACHER_INDICES):
      np.testing.assert_array_equal(found[name], values)
  probabilities = found[records.TEACHER_PROBABILITIES][is_slot]
  assert (np.diff(probabilities, axis=-1) <= 0).all()
  wanted_probabilities = wanted[records.TEACHER_PROBABILITIES][is_slot]
  np.testing.assert_allclose(
      probabilities, -np.sort(-wanted_probabilities, axis=-1), atol=1e-5)
  for ours, theirs, p, q in zip(
      found[records.TEACHER_INDICES][is_slot],
      wanted[records.TEACHER_INDICES][is_slot], probabilities,
      wanted_probabilities):
    ours, theirs = dict(zip(ours, p)), dict(zip(theirs, q))
    for index in set(ours) ^ set(theirs):  # A tie at the end of the list.
      last = min(ours.get(index, 1), theirs.get(index, 1))
      assert last == pytest.approx(p[-1], abs=1e-5)


@pytest.mark.parametrize("changes, told", [
    ({"input_file": "none.tfrecord"}, ("--input_file", "none.tfrecord")),
    ({"bert_config_file": "none.json"}, ("--bert_config_file", "none.json")),
    ({"init_checkpoint": "none.ckpt"}, ("--init_checkpoint", "none.ckpt")),
    ({"truncation_factor": 30}, ("--truncation_factor=30", "29")),
    ({"max_seq_length": 9}, ("--max_seq_length=9", "=10")),
    ({"tail_samples": 4}, ("--tail_samples=4", "--truncation_factor=4")),
])
def test_bad_input_is_one_line(tmp_path, folder, changes, told):
  result = _run(folder, tmp_path / "out" / "labelled.tfrecord", **changes)
  tiny.assert_one_line_error(result, *told)
  assert not (tmp_path / "out").exists()


def test_input_files_of_one_name_are_refused(tmp_path, folder):
  for name in ("first", "second"):
    (tmp_path / name).mkdir()
    shutil.copy(folder / "masked_2.tfrecord", tmp_path / name)
  tiny.assert_one_line_error(
      _run(folder, tmp_path / "out.tfrecord",
           input_file=tmp_path / "*" / "masked_2.tfrecord"),
      "--input_file", "two files masked_2.tfrecord", "rename")


def test_labels_of_an_input_that_was_remade_are_not_kept(tmp_path, folder):
  path = tmp_path / "masked_2.tfrecord"
  shutil.copy(folder / "masked_2.tfrecord", path)
  output = tmp_path / "out.tfrecord"
  assert _run(folder, output, input_file=path).returncode == 0
  content = list(records.read_records(str(path), "input_file"))
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in reversed(content):
      writer.write(record)
  tiny.assert_one_line_error(_run(folder, output, input_file=path),
                             "source file masked_2.tfrecord", "--overwrite")


def test_an_input_file_is_not_overwritten(tmp_path, folder):
  result = _run(folder, folder / "masked_2.tfrecord", "--overwrite")
  tiny.assert_one_line_error(result, "--output_file", "input files")


def test_a_teacher_without_its_head_is_refused(tmp_path, folder):
  variables = tiny.random_variables()
  del variables["cls/predictions/output_bias"]
  path = tiny.write_checkpoint(tmp_path / "headless.ckpt", variables)
  result = _run(folder, tmp_path / "labelled.tfrecord", init_checkpoint=path)
  tiny.assert_one_line_error(
      result, "--init_checkpoint", "lacks 1", "cls/predictions/output_bias")


def test_a_damaged_record_ends_the_run_without_output(tmp_path, folder):
  content = bytearray((folder / "masked_2.tfrecord").read_bytes())
  content[-20] ^= 1
  (tmp_path / "masked.tfrecord").write_bytes(content)
  result = _run(folder, tmp_path / "out" / "labelled.tfrecord",
                input_file=tmp_path / "masked.tfrecord")
  tiny.assert_one_line_error(result, "--input_file", "damaged")
  assert not (tmp_path / "out").exists()


def test_the_draws_depend_on_seed_and_record_alone(tmp_path, folder):
  """Not on batches, nor on which file a record is in."""
  shape = tiny.SHAPE._replace(truncation_factor=6)
  outputs = []
  for name, changes in (
      ("one", {"batch_size": 3}), ("two", {"batch_size": 1}),
      ("three", {"random_seed": 1})):
    path = tmp_path / name
    result = _run(folder, path, tail_samples=4, truncation_factor=6,
                  temperature=2, **changes)
    assert result.returncode == 0, result.stderr
    outputs.append(_decode([path], shape))
  is_slot = outputs[0][records.MASKED_LM_WEIGHTS] > 0
  np.testing.assert_allclose(
      outputs[0][records.TEACHER_PROBABILITIES][is_slot].sum(axis=-1), 1,
      rtol=1e-5)
  indices = [output[records.TEACHER_INDICES] for output in outputs]
  np.testing.assert_array_equal(indices[0], indices[1])
  np.testing.assert_array_equal(indices[0][..., :2], indices[2][..., :2])
  assert (indices[0] != indices[2]).any()


@pytest.fixture(name="long_run", scope="module")
def _long_run(tmp_path_factory, folder):
  """Arguments of a run of 60 windows, and what it gives."""
  long_folder = tmp_path_factory.mktemp("long")
  generator = np.random.default_rng(6)
  tiny.write_records(long_folder / "masked.tfrecord", [
      tiny.random_features(generator) for _ in range(970)])
  changes = {"input_file": long_folder / "masked.tfrecord", "batch_size": 1}
  result = _run(folder, long_folder / "whole.tfrecord", **changes)
  assert result.returncode == 0, result.stderr
  return changes, (long_folder / "whole.tfrecord").read_bytes()


def _stop_midway(arguments, partial, signal_number, windows):
  """Starts a run and stops it some windows later; returns what it said."""
  process = subprocess.Popen(
      [sys.executable, str(tiny.ROOT / _SCRIPT), *arguments],
      stderr=subprocess.PIPE, text=True)
  start = partial.stat().st_size if partial.exists() else 0
  while process.poll() is None and (
      not partial.exists() or partial.stat().st_size < start + 3000 * windows):
    time.sleep(0.001)
  process.send_signal(signal_number)
  return process.communicate()[1], process.returncode


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, folder, long_run):
  changes, whole = long_run
  output = tmp_path / "labelled.tfrecord"
  partial = tmp_path / ".labelled.tfrecord.partial"
  arguments = _arguments(folder, output, **changes)
  moments = random.Random(0)
  for _ in range(3):
    _stop_midway(arguments, partial, signal.SIGKILL, moments.uniform(2, 8))
    assert not output.exists() and partial.exists()
  said, code = _stop_midway(arguments, partial, signal.SIGTERM, 2)
  assert code == 130
  assert said.splitlines()[-1].endswith(
      "interrupted; what is labelled is kept: the same command goes on from "
      "here")
  tiny.assert_one_line_error(
      _run(folder, output, "--temperature=2", **changes),
      "--temperature is 2.0, not 1.0", "--overwrite")
  result = _run(folder, output, **changes)
  assert "Going on behind record" in result.stderr
  assert output.read_bytes() == whole
  assert sorted(os.listdir(tmp_path)) == [
      "labelled.tfrecord", "labelled.tfrecord.json"]


def test_what_is_behind_the_last_window_is_written_again(
    tmp_path, folder, long_run):
  """A kill may leave records that the progress does not count, or half one."""
  changes, whole = long_run
  output = tmp_path / "labelled.tfrecord"
  partial = tmp_path / ".labelled.tfrecord.partial"
  arguments = _arguments(folder, output, **changes)
  _stop_midway(arguments, partial, signal.SIGKILL, 3)
  with open(partial, "ab") as file:
    file.write(b"half a record")
  assert _run(folder, output, **changes).returncode == 0
  assert output.read_bytes() == whole


def test_a_run_killed_at_its_very_end_is_finished(tmp_path, folder, long_run):
  """All records are written, but the file has not got its name."""
  changes, whole = long_run
  output = tmp_path / "labelled.tfrecord"
  assert _run(folder, output, **changes).returncode == 0
  output.rename(tmp_path / ".labelled.tfrecord.partial")
  (tmp_path / "labelled.tfrecord.json").rename(
      tmp_path / ".labelled.tfrecord.partial.json")
  result = _run(folder, output, **changes)
  assert result.returncode == 0, result.stderr
  assert output.read_bytes() == whole


def test_processes_label_shares_in_order(tmp_path, folder, long_run):
  changes, whole = long_run
  arguments = _arguments(folder, tmp_path / "labelled.tfrecord", **changes)
  parts = ["labelled-00000-of-00002.tfrecord",
           "labelled-00001-of-00002.tfrecord"]
  # Only the first part is there, as if the other process had died.
  result = tiny.launch(tiny.MPIRUN, _SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  (tmp_path / parts[1]).unlink()
  kept = (tmp_path / parts[0]).stat().st_mtime_ns
  result = tiny.launch(tiny.MPIRUN, _SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  assert (tmp_path / parts[0]).stat().st_mtime_ns == kept
  (tmp_path / "whole.tfrecord").write_bytes(whole)
  found = _decode([tmp_path / part for part in parts])
  wanted = _decode([tmp_path / "whole.tfrecord"])
  for name, values in wanted.items():
    np.testing.assert_allclose(found[name], values, atol=1e-6)


def test_a_process_that_dies_ends_the_job(tmp_path, folder, long_run):
  changes, _ = long_run
  script = tmp_path / "dies.py"
  script.write_text(
      "import os, runpy, sys\n"
      "if os.environ['OMPI_COMM_WORLD_RANK'] == '1':\n"
      "  import horovod.tensorflow as hvd\n"
      "  hvd.init()\n"
      "  os.kill(os.getpid(), 9)\n"
      "sys.path.insert(0, {0!r})\n"
      "sys.argv[0] = {0!r} + '/{1}'\n"
      "runpy.run_path(sys.argv[0], run_name='__main__')\n".format(
          str(tiny.ROOT), _SCRIPT))
  start = time.monotonic()
  result = tiny.launch(
      tiny.MPIRUN, script,
      *_arguments(folder, tmp_path / "labelled.tfrecord", **changes))
  assert result.returncode != 0
  assert time.monotonic() - start < 60
