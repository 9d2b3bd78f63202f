"""Tests of the extraction of teacher labels, as a script."""

import json

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


def _run(folder, output_file, *more, **changes):
  values = dict({
      "bert_config_file": folder / "bert_config.json",
      "input_file": folder / "masked_*.tfrecord",
      "output_file": output_file,
      "init_checkpoint": folder / "bert_model.ckpt",
      "truncation_factor": 4,
  }, **changes)
  return tiny.run_script(_SCRIPT, *tiny.SHAPE_FLAGS, *more, *(
      "--{}={}".format(name, value) for name, value in values.items()))


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
               "batch_size (default: 32)", "overwrite (default: False)"):
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
  assert manifest["sources"] == {"masked_2.tfrecord": 7, "masked_10.tfrecord": 4}
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
])
def test_bad_input_is_one_line(tmp_path, folder, changes, told):
  result = _run(folder, tmp_path / "out" / "labelled.tfrecord", **changes)
  tiny.assert_one_line_error(result, *told)
  assert not (tmp_path / "out").exists()


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
