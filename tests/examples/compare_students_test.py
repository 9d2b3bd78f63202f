"""Tests of the comparison of students: descriptions, tables, whole runs."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from examples import compare_students
import modeling
from records import manifest
import tiny
from util.command_line import InputError


def _description(folder):
  return {
      "teacher": str(folder / "teacher"),
      "training_records": str(folder / "masked_[0-9].tfrecord"),
      "held_out_records": str(folder / "held_out.tfrecord"),
      "validation_records": str(folder / "validation.tfrecord"),
      "flags": {"max_seq_length": 10, "max_predictions_per_seq": 3},
      "training": {"train_batch_size": 4, "learning_rate": 1e-3},
      "labels": {"top 10": {"truncation_factor": 10},
                 "2 of 5": {"truncation_factor": 5, "tail_samples": 2}},
      "students": {
          "the teacher's layer": {"config": {"num_hidden_layers": 1},
                                  "start": [1]},
          "narrow": {"config": {"hidden_size": 4}}},
      "recipes": {"hard labels": {"hard_label_weight": 1},
                  "bucket": {"labels": "top 10", "tail_mass": "bucket"},
                  "drawn": {"labels": "2 of 5"}},
      "runs": [
          {"student": "the teacher's layer", "recipes": ["drawn"],
           "steps": [4], "seeds": [1, 2]},
          {"student": "narrow", "recipes": ["bucket"], "steps": [3],
           "seeds": [1], "training": {
               "train_batch_size": 2, "eval_every_checkpoint": True}}]}


@pytest.fixture(name="inputs")
def _inputs(tmp_path):
  """A teacher of two layers, masked records, and the description's file."""
  folder = tmp_path / "inputs"
  (folder / "teacher").mkdir(parents=True)
  config = modeling.BertConfig(**dict(
      tiny.CONFIG.to_dict(), num_hidden_layers=2))
  tiny.write_config(folder / "teacher" / "bert_config.json", config)
  tiny.write_checkpoint(folder / "teacher" / "bert_model.ckpt",
                        tiny.random_variables(config))
  for i, name in enumerate(("masked_1", "masked_2", "held_out",
                             "validation")):
    tiny.write_records(folder / (name + ".tfrecord"), map(
        tiny.without_labels, tiny.random_examples(20, seed=i)))
  _write(folder, _description(folder))
  return folder


def _write(folder, description):
  (folder / "description.json").write_text(json.dumps(description))


def _arguments(inputs, output_dir):
  return ("--description_file={}".format(inputs / "description.json"),
          "--output_dir={}".format(output_dir))


def _run(inputs, output_dir):
  return tiny.run_script(
      "examples/compare_students.py", *_arguments(inputs, output_dir))


def _read(output_dir):
  return json.loads((output_dir / "results.json").read_text())


@pytest.mark.slow
def test_a_comparison(inputs, tmp_path):
  output_dir = tmp_path / "out"
  result = _run(inputs, output_dir)
  assert result.returncode == 0, result.stderr
  found = _read(output_dir)
  assert [(run["student"], run["recipe"], run["steps"], run["seed"])
          for run in found["runs"]] == [
              ("the teacher's layer", "drawn", 4, 1),
              ("the teacher's layer", "drawn", 4, 2),
              ("narrow", "bucket", 3, 1)]
  assert [(model["model"], model.get("student")) for model in found["models"]
         ] == [("teacher", None), ("start", "the teacher's layer")]
  for run in found["runs"]:
    # All runs are measured on the same records, with the teacher's top 10.
    assert run["results"]["global_step"] in (
        [0, 3] if run["student"] == "narrow" else [run["steps"]])
    assert 0 < run["results"]["kl_from_teacher"] < 10
  assert found["models"][0]["results"]["teacher_top1_agreement"] == 1
  student = output_dir / "run_the-teacher-s-layer_drawn_4_2"
  assert not list(student.rglob("model.ckpt-*"))
  config = modeling.BertConfig.from_json_file(
      str(student / "student" / "bert_config.json"))
  assert config == tiny.CONFIG
  # A user can give the command of a run.
  words = found["runs"][2]["command"].split()
  assert words[0] == "python"
  assert {"--train_batch_size=2", "--tail_mass=bucket",
          "--truncation_factor=10", "--eval_input_file={}".format(
              output_dir / "labels" / "validation.tfrecord")} < set(words)
  table = result.stdout.splitlines()
  assert table[0].startswith("the teacher's layer, 4 steps, ")
  accuracies = [run["results"]["masked_lm_accuracy"]
                for run in found["runs"][:2]]
  drawn = next(line for line in table if line.startswith("| drawn "))
  assert drawn.startswith("| drawn | 2 | {:.4f} ± {:.4f} |".format(
      np.mean(accuracies), np.std(accuracies, ddof=1)))
  assert (output_dir / "table.md").read_text() == result.stdout
  assert "The remaining runs take about" in result.stderr

  assert set(found["label_bytes"]) == {"drawn", "bucket"}
  assert min(found["label_bytes"].values()) > 0

  # Finished runs no longer need their labels.
  for path in (output_dir / "labels").glob("drawn.tfrecord*"):
    path.unlink()
  again = _run(inputs, output_dir)
  assert again.returncode == 0, again.stderr
  assert "3 of 3 runs are finished" in again.stderr
  assert again.stdout == result.stdout
  assert _read(output_dir) == found

  description = _description(inputs)
  description["recipes"]["drawn"]["hard_label_weight"] = 0.5
  _write(inputs, description)
  tiny.assert_one_line_error(
      _run(inputs, output_dir), "--output_dir", "made with nothing",
      "now has --hard_label_weight=0.5;")
  description = _description(inputs)
  description["students"]["narrow"]["config"]["hidden_size"] = 2
  _write(inputs, description)
  tiny.assert_one_line_error(
      _run(inputs, output_dir), "--description_file: student narrow: ",
      "another config", "another name for the student")
  assert _read(output_dir) == found

  # The records change under the same name.
  _write(inputs, _description(inputs))
  tiny.write_records(inputs / "masked_2.tfrecord", map(
      tiny.without_labels, tiny.random_examples(20, seed=9)))
  tiny.assert_one_line_error(
      _run(inputs, output_dir), "training_records", "masked_[0-9].tfrecord",
      "--output_dir")
  assert _read(output_dir) == found


@pytest.mark.slow
@pytest.mark.parametrize("validation", ["validation", "held_out"])
def test_validation_labels_have_the_settings_of_the_training_labels(
    inputs, tmp_path, validation):
  """The settings are the truncation factor and the temperature."""
  description = _description(inputs)
  description["labels"] = {
      "5": {"truncation_factor": 5, "temperature": 2.0}}
  description["recipes"] = {"5": {"labels": "5"}}
  description["runs"] = [
      {"student": "narrow", "recipes": ["5"], "steps": [2], "seeds": [1],
       "training": {"eval_every_checkpoint": True}}]
  description["validation_records"] = str(inputs / (validation + ".tfrecord"))
  if validation == "held_out":
    del description["validation_records"]
  _write(inputs, description)
  result = _run(inputs, tmp_path / "out")
  assert result.returncode == 0, result.stderr
  run, = _read(tmp_path / "out")["runs"]
  chosen_by = tmp_path / "out" / "labels" / "validation-5-2.0.tfrecord"
  assert "--eval_input_file={}".format(chosen_by) in run["command"]
  made_by = manifest.read_manifest(str(chosen_by))
  assert made_by.flags["truncation_factor"] == 5
  assert made_by.flags["temperature"] == 2.0
  assert list(made_by.sources) == [validation + ".tfrecord"]
  assert 0 < run["results"]["kl_from_teacher"] < 10


@pytest.mark.slow
def test_a_stopped_comparison_lets_its_run_save(inputs, tmp_path):
  description = _description(inputs)
  description["runs"] = [{"student": "narrow", "recipes": ["hard labels"],
                          "steps": [100000], "seeds": [1]}]
  _write(inputs, description)
  output_dir = tmp_path / "out"
  log = output_dir / "run_narrow_hard-labels_100000_1" / "log.txt"
  with subprocess.Popen(
      [sys.executable, str(tiny.ROOT / "examples" / "compare_students.py"),
       *_arguments(inputs, output_dir)], start_new_session=True) as process:
    while not (log.exists() and "Step " in log.read_text()):
      assert process.poll() is None
      time.sleep(0.1)
    process.terminate()
  assert process.returncode == 130
  assert _read(output_dir)["runs"] == []
  assert "is saved" in log.read_text()


def test_inputs_may_change_until_a_run_is_finished(inputs, tmp_path):
  description = compare_students.read_description(
      str(inputs / "description.json"))
  noted = []
  for seed in (8, 9):
    tiny.write_records(inputs / "masked_2.tfrecord", map(
        tiny.without_labels, tiny.random_examples(20, seed=seed)))
    compare_students.Comparison(description, str(tmp_path)).check_inputs()
    noted.append(_read(tmp_path)["inputs"]["training_records"])
  assert noted[0] != noted[1]


@pytest.mark.parametrize("config, words", [
    ({"hidden_size": 3}, "not a multiple of num_attention_heads 2; correct"),
    ({"hidden_size": 2}, "made with another config; choose another name"),
])
def test_a_bad_config_of_a_student_names_the_flag(
    inputs, tmp_path, config, words):
  (tmp_path / "config_narrow.json").write_text(
      (inputs / "teacher" / "bert_config.json").read_text())
  description = _description(inputs)
  description["students"] = {"narrow": {"config": config}}
  description["runs"] = description["runs"][1:]
  _write(inputs, description)
  comparison = compare_students.Comparison(compare_students.read_description(
      str(inputs / "description.json")), str(tmp_path))
  with pytest.raises(InputError, match=words) as error:
    comparison.prepare()
  assert str(error.value).startswith("--description_file: student narrow: ")


def test_a_bad_config_of_the_teacher_names_the_flag(inputs, tmp_path):
  (inputs / "teacher" / "bert_config.json").write_text("{}")
  with pytest.raises(InputError) as error:
    compare_students.Comparison(compare_students.read_description(
        str(inputs / "description.json")), str(tmp_path)).prepare()
  assert str(error.value).startswith("--description_file: {}".format(
      inputs / "teacher" / "bert_config.json"))


def test_a_failing_command_is_one_line(inputs, tmp_path):
  (inputs / "teacher" / "bert_model.ckpt.index").unlink()
  tiny.assert_one_line_error(
      _run(inputs, tmp_path / "out"), "bert_model.ckpt",
      "extract_teacher_labels_truncated.py has failed", "labels/log.txt")


@pytest.mark.parametrize("change, words", [
    ({"teacher": 3}, "teacher is 3, not a string"),
    ({"runs": []}, "runs is empty"),
    ({"seeds": [1]}, "the description has seeds"),
    ({"recipes": {"a": {"labels": "b"}}}, "recipe a has the labels b"),
    ({"students": {"a": {"layers": 3}}}, "student a lacks config"),
    ({"students": {}}, "a run has the student the teacher's layer"),
    ({"runs": [{"student": "narrow", "recipes": ["x"], "steps": [1],
                "seeds": [1]}]}, "a run has the recipe x"),
    ({"runs": [{"student": "narrow"}]}, "a run lacks recipes"),
    ({"runs": [{"student": "narrow", "recipes": ["drawn"], "steps": 5,
                "seeds": [1]}]}, "steps of a run is 5, not a list"),
    ({"recipes": {"hard labels": {}, "drawn": {}, "bucket": {},
                  "hard, labels": {}}}, "hard labels and hard, labels"),
    ({"recipes": {"drawn": 3}}, "drawn of recipes is 3, not an object"),
    ({"students": {"narrow": {"config": [3]}}}, "config of narrow is [3]"),
    ({"students": {"narrow": {"config": {}, "start": 3}}},
     "start of narrow is 3, not a list"),
    ({"runs": [{"student": ["narrow"], "recipes": ["drawn"], "steps": [5],
                "seeds": [1]}]}, 'student of a run is ["narrow"], not a'),
    ({"runs": [{"student": "narrow", "recipes": ["drawn"], "steps": ["5"],
                "seeds": [1]}]}, 'steps of a run is "5", not a whole number'),
    ({"students": {"narrow": {"config": {"layers": 3}}},
      "runs": [{"student": "narrow", "recipes": ["hard labels"], "steps": [1],
                "seeds": [1]}]},
     "--description_file: student narrow: "),
])
def test_invalid_descriptions_are_refused(inputs, tmp_path, change, words):
  _write(inputs, dict(_description(inputs), **change))
  tiny.assert_one_line_error(_run(inputs, tmp_path / "out"), words)


def test_a_description_that_is_not_json_is_refused(tmp_path):
  path = tmp_path / "a.json"
  path.write_text("{")
  with pytest.raises(InputError, match="a.json is not JSON.*line 1"):
    compare_students.read_description(str(path))


def test_later_flags_replace_earlier_ones():
  words = compare_students.command("a.py", {"b": 1, "c": 2}, {"b": 3})
  assert words == ["python", "a.py", "--b=3", "--c=2"]


@pytest.mark.parametrize("path", sorted(
    (tiny.ROOT / "examples" / "students").glob("*.json")))
def test_the_descriptions_of_the_repository_are_valid(path):
  description = compare_students.read_description(str(path))
  assert {run.recipe for run in description.runs} == set(description.recipes)
