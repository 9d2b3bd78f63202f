"""Tests of the scripts that distillation_quality.sh consists of."""

import dataclasses

import pytest

from distillation import evaluation
import modeling
import tiny


def test_student_config(tmp_path):
  path = tmp_path / "new" / "student.json"
  result = tiny.run_script(
      "examples/make_student_config.py", "--layers=3", "--output_file", path,
      "--bert_config_file", tiny.write_config(tmp_path / "teacher.json"))
  assert result.returncode == 0, result.stderr
  assert modeling.BertConfig.from_json_file(str(path)) == dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=3)


def test_student_of_no_config(tmp_path):
  path = tmp_path / "teacher.json"
  tiny.assert_one_line_error(tiny.run_script(
      "examples/make_student_config.py", "--layers=3",
      "--bert_config_file", path, "--output_file", tmp_path / "student.json"),
                             "--bert_config_file", path)


@pytest.fixture(name="runs")
def _runs(tmp_path):
  """A folder with results of runs, those of the students with two seeds."""
  for i, name in enumerate((
      "teacher", "start", "hard-1", "hard-7", "drop-1", "drop-7", "bucket-1",
      "bucket-7", "sampled-1", "sampled-7")):
    evaluation.write_results([str(tmp_path / name)], {
        "masked_lm_accuracy": i / 10, "masked_lm_cross_entropy": i,
        "teacher_top1_agreement": 0.5, "kl_from_teacher": 0.25,
        "expected_calibration_error": 0.125, "global_step": 9}, "model.ckpt-9")
  return tmp_path


def test_quality_table(runs):
  result = tiny.run_script(
      "examples/quality_table.py", "--folder", runs, "--seeds", "1 7")
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert len(lines) == 8
  assert lines[:3] == [
      "| model | accuracy | cross entropy | agreement with the teacher | "
      "KL from the teacher | calibration error |",
      "|---|---|---|---|---|---|",
      "| teacher | 0.0000 | 0.0000 | 0.5000 | 0.2500 | 0.1250 |"]
  # Of 0.2 and 0.3 the standard deviation is 0.1 / sqrt(2).
  assert lines[4] == (
      "| only hard labels | 0.2500 ± 0.0707 | 2.5000 ± 0.7071 | "
      "0.5000 ± 0.0000 | 0.2500 ± 0.0000 | 0.1250 ± 0.0000 |")


def test_quality_table_lacks_a_run(runs):
  tiny.assert_one_line_error(
      tiny.run_script("examples/quality_table.py", "--folder", runs),
      "--folder", runs / "hard-2")
