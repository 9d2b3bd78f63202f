"""Tests of the script that extracts teacher labels."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf

from distillation import devices
from distillation import teacher_decoder
import processes
from records import compact
from records import decoding
from records import manifest
from records import record_writer
from records import schema
from records import tfrecord
import reference_bert
import tiny

_SCRIPT = "extract_teacher_labels_truncated.py"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """A config, a checkpoint and two files of unlabelled records."""
  folder = tmp_path_factory.mktemp("teacher")
  tiny.write_config(folder / "bert_config.json")
  tiny.write_checkpoint(folder / "bert_model.ckpt", tiny.random_variables())
  examples = list(map(tiny.without_labels, tiny.random_examples(11, seed=3)))
  tiny.write_records(folder / "masked_2.tfrecord", examples[:7])
  tiny.write_records(folder / "masked_10.tfrecord", examples[7:])
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
                for record in tfrecord.read(str(path), "input_file")]
  return {name: value.numpy() for name, value in decoding.decode(
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
               "random_seed (default: 12345)",
               "record_format (default: example)",
               "probability_bits (default: 16)"):
    assert "  --" + line in result.stdout


def test_the_manifest_names_the_effective_precision(
    tmp_path, folder):
  output = tmp_path / "labelled.tfrecord"
  result = _run(folder, output, precision="bf16")
  assert result.returncode == 0, result.stderr
  flags = json.loads(
      (tmp_path / "labelled.tfrecord.json").read_text())["flags"]
  assert flags["precision"] == "bf16"
  wanted = devices.effective_precision("bf16")
  if not (tf.config.get_visible_devices("GPU")
          or "bf16" in pathlib.Path("/proc/cpuinfo").read_text()):
    wanted = "fp32"
  # The manifest has no such entry if the device computes in bf16.
  assert flags.get("arithmetic", "bf16") == wanted
  again = _run(folder, output, precision="bf16")
  assert again.returncode == 0 and "is finished" in again.stderr


def test_labels_are_the_teachers_top_k_tokens(
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
  is_slot = unlabelled[schema.MASKED_LM_WEIGHTS] > 0
  assert 0 < is_slot.mean() < 1
  found = labelled[schema.TEACHER_PROBABILITIES]
  np.testing.assert_allclose(found[is_slot], probabilities.numpy()[is_slot],
                             atol=1e-6)
  np.testing.assert_array_equal(labelled[schema.TEACHER_INDICES][is_slot],
                                indices.numpy()[is_slot])
  assert not found[~is_slot].any()
  assert not labelled[schema.TEACHER_INDICES][~is_slot].any()

  manifest = json.loads((output.parent / "labelled.tfrecord.json").read_text())
  assert manifest["num_records"] == 11
  assert manifest["sources"] == {
      name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
      for name in ("masked_2.tfrecord", "masked_10.tfrecord")}
  assert manifest["flags"]["truncation_factor"] == 4
  masked = unlabelled[schema.MASKED_LM_IDS][is_slot]
  log_probabilities = tf.nn.log_softmax(scores).numpy()[is_slot]
  figures = manifest["teacher"]
  assert figures["num_records"] == 11
  assert figures["num_tokens"] == len(masked)
  assert figures["num_correct"] == np.sum(
      log_probabilities.argmax(axis=-1) == masked)
  assert figures["cross_entropy"] == pytest.approx(
      -log_probabilities[np.arange(len(masked)), masked].sum(), rel=1e-5)

  # The same command skips the file; a command with other flags is refused.
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
      schema.TEACHER_INDICES].shape == (11, 3, 2)


def test_labels_equal_the_golden_labels(tmp_path, shared):
  teacher = shared / "data/teacher"
  result = tiny.run_script(
      _SCRIPT, "--bert_config_file", teacher / "bert_config.json",
      "--init_checkpoint", teacher / "bert_model.ckpt", "--input_file",
      shared / "golden/teacher_labels/input.tfrecord",
      "--output_file", tmp_path / "labelled.tfrecord")
  assert result.returncode == 0, result.stderr
  shape = schema.RecordShape(128, 20, 10)
  found = _decode([tmp_path / "labelled.tfrecord"], shape)
  wanted = _decode([shared / "golden/teacher_labels/expected.tfrecord"], shape)
  is_slot = wanted[schema.MASKED_LM_WEIGHTS] > 0
  for name, values in wanted.items():
    if name not in schema.LABELS:
      np.testing.assert_array_equal(found[name], values)
  probabilities = found[schema.TEACHER_PROBABILITIES][is_slot]
  assert (np.diff(probabilities, axis=-1) <= 0).all()
  wanted_probabilities = wanted[schema.TEACHER_PROBABILITIES][is_slot]
  # Matrix products differ in their last digits between processors.
  tolerance = 1e-4
  np.testing.assert_allclose(
      probabilities, -np.sort(-wanted_probabilities, axis=-1), rtol=0,
      atol=tolerance)
  for ours, theirs, p, q in zip(
      found[schema.TEACHER_INDICES][is_slot],
      wanted[schema.TEACHER_INDICES][is_slot], probabilities,
      wanted_probabilities):
    ours, theirs = dict(zip(ours, p)), dict(zip(theirs, q))
    for index in set(ours) & set(theirs):
      assert ours[index] == pytest.approx(theirs[index], abs=tolerance)
    for index in set(ours) ^ set(theirs):  # A tie at the end of the list.
      last = min(ours.get(index, 1), theirs.get(index, 1))
      assert last == pytest.approx(p[-1], abs=tolerance)


@pytest.mark.parametrize("changes, told", [
    ({"input_file": "none.tfrecord"}, ("--input_file", "none.tfrecord")),
    ({"bert_config_file": "none.json"}, ("--bert_config_file", "none.json")),
    ({"init_checkpoint": "none.ckpt"}, ("--init_checkpoint", "none.ckpt")),
    ({"truncation_factor": 30}, ("--truncation_factor=30", "29")),
    ({"max_seq_length": 9}, ("--max_seq_length=9", "=10")),
    ({"tail_samples": 4}, ("--tail_samples=4", "--truncation_factor=4")),
    *(({"label_format": "hidden", "truncation_factor": 10, name: value},
       ("--{}={} has no effect".format(name, value), "--label_format=hidden"))
      for name, value in (("truncation_factor", 4), ("temperature", 2.0),
                          ("tail_samples", 3))),
    *((dict({"probability_bits": 8}, **changes),
       ("--probability_bits=8 has no effect",))
      for changes in ({}, {"record_format": "compact", "label_format": "hidden",
                           "truncation_factor": 10})),
])
def test_bad_input_ends_in_one_line(tmp_path, folder, changes, told):
  result = _run(folder, tmp_path / "out" / "labelled.tfrecord", **changes)
  tiny.assert_one_line_error(result, *told)
  assert not (tmp_path / "out").exists()


def test_hidden_states_and_decoder_reproduce_the_soft_labels(tmp_path, folder):
  hidden = {"label_format": "hidden", "truncation_factor": 10}
  for name, changes in (("hidden", hidden), ("topk", {})):
    result = _run(folder, tmp_path / name / "a.tfrecord", **changes)
    assert result.returncode == 0, result.stderr
    assert "masked tokens. A sequence takes" in result.stderr
  shape = tiny.SHAPE._replace(truncation_factor=0, teacher_hidden_size=8)
  features = _decode([tmp_path / "hidden" / "a.tfrecord"], shape)
  entries = _decode([tmp_path / "topk" / "a.tfrecord"])
  decoder = teacher_decoder.read(
      str(tmp_path / "hidden" / "teacher_decoder.npz"))
  logits = (features.pop(schema.TEACHER_HIDDEN_STATES)
            @ decoder.word_embeddings.T + decoder.output_bias)
  probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
  probabilities /= probabilities.sum(axis=-1, keepdims=True)
  is_real = features[schema.MASKED_LM_WEIGHTS] > 0
  np.testing.assert_allclose(
      np.take_along_axis(
          probabilities, entries[schema.TEACHER_INDICES], -1)[is_real],
      entries[schema.TEACHER_PROBABILITIES][is_real], atol=1e-3)
  for name, values in features.items():
    np.testing.assert_array_equal(values, entries[name])
  made_by = manifest.read_manifest(str(tmp_path / "hidden" / "a.tfrecord"))
  assert made_by.flags["label_format"] == "hidden"
  assert made_by.flags["hidden_size"] == 8
  assert made_by.fingerprints["teacher_decoder"] == decoder.fingerprint()
  # The same command keeps the records and writes a missing decoder again.
  (tmp_path / "hidden" / "teacher_decoder.npz").unlink()
  result = _run(folder, tmp_path / "hidden" / "a.tfrecord", **hidden)
  assert "is finished" in result.stderr
  assert (tmp_path / "hidden" / "teacher_decoder.npz").exists()
  tiny.assert_one_line_error(
      _run(folder, tmp_path / "hidden" / "a.tfrecord"),
      "--label_format is topk, not hidden")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {}, {"label_format": "hidden", "truncation_factor": 10}])
def test_compact_records_expand_to_the_same_features(tmp_path, folder, changes):
  """One input file is in the compact format, the other is not."""
  examples = list(map(tiny.without_labels, tiny.random_examples(11, seed=3)))
  layout = tiny.layout(tiny.SHAPE._replace(truncation_factor=0))
  (tmp_path / "masked").mkdir()
  for name, some, some_layout in (("masked_2.tfrecord", examples[:7], layout),
                                  ("masked_10.tfrecord", examples[7:], None)):
    tiny.write_records(tmp_path / "masked" / name, some, some_layout)
  bits = {} if changes else {"probability_bits": 32}
  found = {}
  for name, more in (
      ("plain", {}), ("compact", {"record_format": "compact", **bits}),
      ("from_compact", {"input_file": tmp_path / "masked" / "*"}),
      ("both", {"input_file": tmp_path / "masked" / "*",
                "record_format": "compact", **bits})):
    output = tmp_path / name / "a.tfrecord"
    result = _run(folder, output, **changes, **more)
    assert result.returncode == 0, result.stderr
    found[name] = list(tfrecord.read(str(output), "input_file"))
  assert found["from_compact"] == found["plain"]
  assert found["both"] == found["compact"]
  for plain, stored in zip(found["plain"], found["compact"]):
    wanted, expanded = tfrecord.decode(plain), tfrecord.decode(stored)
    assert "compact" in expanded
    expanded = compact.expand(expanded)
    assert set(expanded) == set(wanted)
    for name, values in wanted.items():
      np.testing.assert_array_equal(expanded[name], values)
  made_by = manifest.read_manifest(str(tmp_path / "compact" / "a.tfrecord"))
  assert made_by.flags["record_format"] == "compact"
  assert made_by.flags.get("probability_bits") == bits.get("probability_bits")
  tiny.assert_one_line_error(
      _run(folder, tmp_path / "plain" / "a.tfrecord", **changes,
           record_format="compact"),
      "--record_format is compact, not example")


def test_the_error_of_a_record_that_compact_cannot_hold_names_its_file(
    tmp_path, folder):
  """The second of two files has a record with padding between tokens."""
  examples = list(map(tiny.without_labels, tiny.random_examples(4, seed=3)))
  tiny.write_records(tmp_path / "masked_0.tfrecord", examples[:2])
  examples[3][schema.INPUT_MASK][1] = 0
  tiny.write_records(tmp_path / "masked_1.tfrecord", examples[2:])
  wanted = {"batch_size": 1, "record_format": "compact",
            "input_file": tmp_path / "masked_*"}
  result = _run(folder, tmp_path / "out.tfrecord", **wanted)
  tiny.assert_one_line_error(
      result, "--input_file: {}: a record has input_mask".format(
          tmp_path / "masked_1.tfrecord"), "--record_format=example")


def test_input_files_of_the_same_name_are_refused(tmp_path, folder):
  for name in ("first", "second"):
    (tmp_path / name).mkdir()
    shutil.copy(folder / "masked_2.tfrecord", tmp_path / name)
  tiny.assert_one_line_error(
      _run(folder, tmp_path / "out.tfrecord",
           input_file=tmp_path / "*" / "masked_2.tfrecord"),
      "--input_file", "two files named masked_2.tfrecord", "rename")


@pytest.mark.slow
def test_labels_of_an_input_that_has_changed_are_refused(tmp_path, folder):
  path = tmp_path / "masked_2.tfrecord"
  shutil.copy(folder / "masked_2.tfrecord", path)
  output = tmp_path / "out.tfrecord"
  assert _run(folder, output, input_file=path).returncode == 0
  tiny.write_serialized(
      path, reversed(list(tfrecord.read(str(path), "input_file"))))
  tiny.assert_one_line_error(_run(folder, output, input_file=path),
                             "source file masked_2.tfrecord", "--overwrite")


def test_an_input_file_is_not_overwritten(tmp_path, folder):
  result = _run(folder, folder / "masked_2.tfrecord", "--overwrite")
  tiny.assert_one_line_error(result, "--output_file", "input files")


def test_a_teacher_without_next_sentence_head_gives_the_same_labels(
    tmp_path, folder):
  variables = tiny.random_variables()
  tiny.write_checkpoint(tmp_path / "masked_lm.ckpt", {
      name: value for name, value in variables.items()
      if not name.startswith(("bert/pooler/", "cls/seq_relationship/"))})
  for name, checkpoint in (
      ("a.tfrecord", folder / "bert_model.ckpt"),
      ("b.tfrecord", tmp_path / "masked_lm.ckpt")):
    result = _run(folder, tmp_path / name, init_checkpoint=checkpoint)
    assert result.returncode == 0, result.stderr
  assert (tmp_path / "a.tfrecord").read_bytes() == (
      tmp_path / "b.tfrecord").read_bytes()


def test_a_teacher_without_masked_lm_head_is_refused(tmp_path, folder):
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


@pytest.mark.parametrize("changes", [
    {}, {"label_format": "hidden", "truncation_factor": 10}])
def test_an_output_folder_that_is_a_file_is_refused(tmp_path, folder, changes):
  (tmp_path / "file").touch()
  result = _run(folder, tmp_path / "file" / "labelled.tfrecord", **changes)
  tiny.assert_one_line_error(
      result, "--output_file", "a file stands where a folder should")


@pytest.mark.slow
def test_samples_depend_on_the_seed_and_not_on_the_batch_size(tmp_path, folder):
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
  is_slot = outputs[0][schema.MASKED_LM_WEIGHTS] > 0
  np.testing.assert_allclose(
      outputs[0][schema.TEACHER_PROBABILITIES][is_slot].sum(axis=-1), 1,
      rtol=1e-5)
  indices = [output[schema.TEACHER_INDICES] for output in outputs]
  np.testing.assert_array_equal(indices[0], indices[1])
  np.testing.assert_array_equal(indices[0][..., :2], indices[2][..., :2])
  assert (indices[0] != indices[2]).any()


@pytest.fixture(name="long_run", scope="module")
def _long_run(tmp_path_factory, folder):
  """Arguments of a run of 150 windows, and the bytes of its output."""
  long_folder = tmp_path_factory.mktemp("long")
  tiny.write_records(
      long_folder / "masked.tfrecord", tiny.random_examples(2400, seed=6))
  changes = {"input_file": long_folder / "masked.tfrecord", "batch_size": 1}
  result = _run(folder, long_folder / "whole.tfrecord", **changes)
  assert result.returncode == 0, result.stderr
  return changes, (long_folder / "whole.tfrecord").read_bytes()


@pytest.fixture(name="long_figures", scope="module")
def _long_figures(long_run):
  """The teacher's figures in the manifest of the whole run."""
  changes, _ = long_run
  return _figures(changes["input_file"].with_name("whole.tfrecord"))


def _figures(path):
  return json.loads(
      path.with_name(path.name + ".json").read_text())["teacher"]


def _stop_midway(arguments, partial, signal_number, windows):
  """Starts a run and stops it some windows later; returns log and exit code."""
  start = partial.stat().st_size if partial.exists() else 0
  process = processes.Script(
      tiny.ROOT / _SCRIPT, *arguments, stderr=subprocess.PIPE, text=True)
  processes.wait_until(
      lambda: partial.exists()
      and partial.stat().st_size >= start + 3000 * windows, process)
  process.send_signal(signal_number)
  return process.communicate()[1], process.returncode


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(
    tmp_path, folder, long_run, long_figures):
  changes, whole = long_run
  output = tmp_path / "labelled.tfrecord"
  partial = tmp_path / ".labelled.tfrecord.partial"
  arguments = _arguments(folder, output, **changes)
  moments = random.Random(0)
  for _ in range(3):
    _stop_midway(arguments, partial, signal.SIGKILL, moments.uniform(2, 8))
    assert not output.exists() and partial.exists()
  log, code = _stop_midway(arguments, partial, signal.SIGTERM, 2)
  assert code == 130
  assert log.splitlines()[-1].endswith(
      "interrupted; records labelled so far are kept: run the same command "
      "again to resume")
  tiny.assert_one_line_error(
      _run(folder, output, "--temperature=2", **changes),
      "--temperature is 2.0, not 1.0", "--overwrite")
  result = _run(folder, output, **changes)
  assert "Resuming {} after record".format(output) in result.stderr
  assert output.read_bytes() == whole
  assert _figures(output) == long_figures
  assert long_figures["num_records"] == 2400
  assert sorted(os.listdir(tmp_path)) == [
      "labelled.tfrecord", "labelled.tfrecord.json"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_second_run_is_refused_and_harms_nothing(
    tmp_path, folder, long_run, more):
  changes, whole = long_run
  output = tmp_path / "labelled.tfrecord"
  partial = tmp_path / ".labelled.tfrecord.partial"
  with processes.Script(tiny.ROOT / _SCRIPT, *_arguments(
      folder, output, **changes)) as first:
    # The first run has locked the file once the file has content.
    processes.wait_until(
        lambda: partial.exists() and partial.stat().st_size, first)
    first.send_signal(signal.SIGSTOP)
    try:
      tiny.assert_one_line_error(
          _run(folder, output, *more, **changes),
          "{} is being written by another process (process {})".format(
              output, first.script_pid))
    finally:
      first.send_signal(signal.SIGCONT)
  assert first.returncode == 0
  assert output.read_bytes() == whole


@pytest.mark.slow
def test_records_after_the_last_saved_window_are_written_again(
    tmp_path, folder, long_run):
  """A kill may leave uncounted records and half a record."""
  changes, whole = long_run
  output = tmp_path / "labelled.tfrecord"
  partial = tmp_path / ".labelled.tfrecord.partial"
  arguments = _arguments(folder, output, **changes)
  _stop_midway(arguments, partial, signal.SIGKILL, 3)
  with open(partial, "ab") as file:
    file.write(b"half a record")
  assert _run(folder, output, **changes).returncode == 0
  assert output.read_bytes() == whole


@pytest.mark.slow
def test_a_run_killed_at_its_very_end_is_finished(tmp_path, folder, long_run):
  """All records are written, but the file still has its temporary name."""
  changes, whole = long_run
  output = tmp_path / "labelled.tfrecord"
  assert _run(folder, output, **changes).returncode == 0
  output.rename(tmp_path / ".labelled.tfrecord.partial")
  (tmp_path / "labelled.tfrecord.json").rename(
      tmp_path / ".labelled.tfrecord.partial.json")
  result = _run(folder, output, **changes)
  assert result.returncode == 0, result.stderr
  assert output.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("name, do_lower_case, warnings", [
    ("cased_L-1_H-8_A-2", True, 1), ("cased_L-1_H-8_A-2", False, 0),
    ("uncased_L-1_H-8_A-2", False, 1), ("uncased_L-1_H-8_A-2", True, 0),
    ("teacher", True, 0),
])
def test_a_teacher_of_another_case_causes_a_warning(
    tmp_path, folder, name, do_lower_case, warnings):
  """Compares the manifest of the records with the teacher's folder name."""
  checkpoint = tiny.write_checkpoint(
      tmp_path / name / "bert_model.ckpt", tiny.random_variables())
  path = str(tmp_path / "masked.tfrecord")
  with record_writer.RecordWriter(path) as writer:
    for features in tiny.random_examples(2, seed=0):
      writer.write(tiny.serialize(tiny.without_labels(features)))
    writer.commit(manifest.Manifest(
        "multifile_create_pretraining_data",
        {"do_lower_case": do_lower_case}, {}, {}, vocab_size=29))
  result = _run(folder, tmp_path / "labelled.tfrecord",
                init_checkpoint=checkpoint, input_file=path)
  assert result.returncode == 0, result.stderr
  assert result.stderr.count("is named for ") == warnings


@pytest.mark.slow
def test_ranks_label_shards_in_order(tmp_path, folder, long_run):
  changes, whole = long_run
  arguments = _arguments(folder, tmp_path / "labelled.tfrecord", **changes)
  parts = ["labelled-00000-of-00002.tfrecord",
           "labelled-00001-of-00002.tfrecord"]
  result = tiny.launch(tiny.MPIRUN, _SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  (tmp_path / parts[1]).unlink()  # As if rank 1 had died.
  kept = (tmp_path / parts[0]).stat().st_mtime_ns
  result = tiny.launch(tiny.MPIRUN, _SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  assert (tmp_path / parts[0]).stat().st_mtime_ns == kept
  (tmp_path / "whole.tfrecord").write_bytes(whole)
  found = _decode([tmp_path / part for part in parts])
  wanted = _decode([tmp_path / "whole.tfrecord"])
  for name, values in wanted.items():
    np.testing.assert_allclose(found[name], values, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("names", [
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE")])
def test_ranks_of_any_launcher_share_the_records(
    tmp_path, folder, monkeypatch, names):
  for rank in range(2):
    for name, value in zip(names, (rank, 2)):
      monkeypatch.setenv(name, str(value))
    result = _run(folder, tmp_path / "labelled.tfrecord")
    assert result.returncode == 0, result.stderr
  parts = ["labelled-0000{}-of-00002.tfrecord".format(rank)
           for rank in range(2)]
  assert sorted(path.name for path in tmp_path.glob("*.tfrecord")) == parts
  found = _decode([tmp_path / part for part in parts])
  wanted = _decode(sorted(folder.glob("masked_*.tfrecord"), reverse=True),
                   tiny.SHAPE._replace(truncation_factor=0))
  np.testing.assert_array_equal(
      found[schema.INPUT_IDS], wanted[schema.INPUT_IDS])


@pytest.mark.parametrize("environment, told", [
    ({"PMIX_RANK": "1"}, ("PMIX_RANK=1", "mpirun, horovodrun or srun")),
    ({"PMI_RANK": "0", "PMI_SIZE": "12"}, ("11 records for 12", "-np 11")),
])
def test_an_unknown_or_too_large_number_of_ranks_is_refused(
    tmp_path, folder, monkeypatch, environment, told):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  tiny.assert_one_line_error(
      _run(folder, tmp_path / "out" / "labelled.tfrecord"), *told)
  assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_run_with_overwrite_resumes(tmp_path, folder, long_run):
  changes, whole = long_run
  output = tmp_path / "labelled.tfrecord"
  assert _run(folder, output, **changes).returncode == 0
  arguments = _arguments(folder, output, "--overwrite", **changes)
  _stop_midway(arguments, tmp_path / ".labelled.tfrecord.partial",
               signal.SIGKILL, 2)
  assert output.read_bytes() == whole, "replaced before the new one is there"
  result = tiny.run_script(_SCRIPT, *arguments)
  assert result.returncode == 0 and "Resuming" in result.stderr
  assert output.read_bytes() == whole


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job(tmp_path, folder, long_run):
  """Rank 1 dies when rank 0 has written labels."""
  changes, _ = long_run
  partial = tmp_path / ".labelled-00000-of-00002.tfrecord.partial"
  script = tmp_path / "dies.py"
  script.write_text(
      "import os, runpy, sys, time\n"
      "if os.environ['OMPI_COMM_WORLD_RANK'] == '1':\n"
      "  while not (os.path.exists({2!r}) and os.path.getsize({2!r})):\n"
      "    time.sleep(0.01)\n"
      "  os.kill(os.getpid(), 9)\n"
      "sys.path.insert(0, {0!r})\n"
      "sys.argv[0] = {0!r} + '/{1}'\n"
      "runpy.run_path(sys.argv[0], run_name='__main__')\n".format(
          str(tiny.ROOT), _SCRIPT, str(partial)))
  start = time.monotonic()
  result = tiny.launch(
      tiny.MPIRUN, script,
      *_arguments(folder, tmp_path / "labelled.tfrecord", **changes))
  assert result.returncode != 0
  assert time.monotonic() - start < 60
  assert "exited on signal 9" in result.stderr
  # Rank 0 has begun to label and has not finished.
  assert partial.stat().st_size
