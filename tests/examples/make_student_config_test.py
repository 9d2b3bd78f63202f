"""Tests of the script that writes a student's config."""

import dataclasses

import pytest

from examples import make_student_config
import modeling
import tiny

_BERT_BASE = modeling.BertConfig(vocab_size=30522)


def _run(tmp_path, *arguments, teacher=tiny.CONFIG):
  path = tmp_path / "new" / "student.json"
  return path, tiny.run_script(
      "examples/make_student_config.py", "--output_file", path,
      "--bert_config_file", tiny.write_config(tmp_path / "a.json", teacher),
      *arguments)


def test_fewer_layers(tmp_path):
  path, result = _run(tmp_path, "--layers=3", "--max_seq_length=10")
  assert result.returncode == 0, result.stderr
  assert modeling.BertConfig.from_json_file(str(path)) == dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=3)


def test_another_hidden_size_keeps_the_proportions(tmp_path):
  path, result = _run(
      tmp_path, "--layers=6", "--hidden_size=384", teacher=_BERT_BASE)
  assert result.returncode == 0, result.stderr
  assert modeling.BertConfig.from_json_file(str(path)) == dataclasses.replace(
      _BERT_BASE, num_hidden_layers=6, hidden_size=384, num_attention_heads=6,
      intermediate_size=1536)
  # The published 110 million; 4 bytes each.
  rows = [line.split() for line in result.stdout.splitlines()]
  assert rows[1] == [
      "parameters", "110.1", "million", "22.9", "million", "0.21"]
  assert rows[2][3:5] == ["440", "MB"]


def test_arithmetic_by_hand():
  config = modeling.BertConfig(
      vocab_size=5, hidden_size=2, num_hidden_layers=1, num_attention_heads=1,
      intermediate_size=3)
  # For each of 4 tokens: 4 products of 2 x 2, 2 x 3 and 3 x 2, and 2 of 4 x 2
  # in the attention; for each of 2 predictions 2 x 2 and 2 x 5; the pooler.
  multiplications = 4 * (16 + 12 + 2 * 4 * 2) + 2 * (4 + 10) + 4
  assert make_student_config.num_operations(config, 4, 2) == 2 * multiplications


def test_a_hidden_size_that_heads_do_not_fill(tmp_path):
  _, result = _run(tmp_path, "--layers=6", "--hidden_size=400",
                   teacher=_BERT_BASE)
  tiny.assert_one_line_error(result, "--hidden_size=400", "64", "384")


def test_another_config_is_not_replaced_in_silence(tmp_path):
  def run(*arguments):
    return _run(tmp_path, *arguments, teacher=_BERT_BASE)

  path, _ = run("--layers=1")
  before = path.read_text()
  assert run("--layers=1")[1].returncode == 0
  tiny.assert_one_line_error(
      run("--layers=2")[1], "--output_file", "--overwrite=True")
  assert path.read_text() == before
  assert run("--layers=2", "--overwrite")[1].returncode == 0
  assert modeling.BertConfig.from_json_file(str(path)).num_hidden_layers == 2


@pytest.mark.parametrize("arguments, is_told", [
    (["--layers=1"], False), (["--layers=2"], True),
    (["--layers=2", "--hidden_size=4"], False)])
def test_a_student_that_is_larger_than_the_teacher(
    tmp_path, arguments, is_told):
  _, result = _run(tmp_path, "--max_seq_length=10", *arguments)
  assert result.returncode == 0
  assert ("larger than the teacher" in result.stderr) == is_told


def test_no_config(tmp_path):
  path = tmp_path / "teacher.json"
  tiny.assert_one_line_error(tiny.run_script(
      "examples/make_student_config.py", "--layers=3",
      "--bert_config_file", path, "--output_file", tmp_path / "student.json"),
                             "--bert_config_file", path)
