"""Tests of the script that writes a student's config."""

import dataclasses

import numpy as np
import pytest

from examples import make_student_config
import modeling
import tiny
from util.command_line import InputError

_BERT_BASE = modeling.BertConfig(vocab_size=30522)


def _run(tmp_path, *arguments, teacher=tiny.CONFIG):
  path = tmp_path / "new" / "student.json"
  return path, tiny.run_script(
      "examples/make_student_config.py", "--output_file", path,
      "--bert_config_file", tiny.write_config(tmp_path / "a.json", teacher),
      *arguments)


def test_fewer_layers_leave_the_rest_unchanged(tmp_path):
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
  # BERT-Base has the published 110 million parameters, 4 bytes each.
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


def test_a_hidden_size_that_heads_do_not_divide_is_refused(tmp_path):
  _, result = _run(tmp_path, "--layers=6", "--hidden_size=400",
                   teacher=_BERT_BASE)
  tiny.assert_one_line_error(result, "--hidden_size=400", "64", "384")


def test_another_config_is_not_replaced_without_overwrite(tmp_path):
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
def test_a_student_larger_than_the_teacher_gives_a_warning(
    tmp_path, arguments, is_told):
  _, result = _run(tmp_path, "--max_seq_length=10", *arguments)
  assert result.returncode == 0
  assert ("larger than the teacher" in result.stderr) == is_told


def test_a_missing_config_is_refused(tmp_path):
  path = tmp_path / "teacher.json"
  tiny.assert_one_line_error(tiny.run_script(
      "examples/make_student_config.py", "--layers=3",
      "--bert_config_file", path, "--output_file", tmp_path / "student.json"),
                             "--bert_config_file", path)


# --- Published students ------------------------------------------------------


def test_shapes_of_the_published_models():
  """The largest shape is BERT-Base; Google's page lists the parameters."""
  shapes = [make_student_config.published_config(_BERT_BASE, name)
            for name in make_student_config._PUBLISHED]
  assert len(shapes) == len(set(map(str, shapes))) == 24
  assert shapes[-1] == _BERT_BASE
  for shape in shapes:
    assert shape.hidden_size == 64 * shape.num_attention_heads
    assert shape.intermediate_size == 4 * shape.hidden_size
  by_name = dict(zip(make_student_config._PUBLISHED, shapes))
  # In millions, as published.
  for name, millions in (("L-2_H-128", 4.4), ("L-4_H-256", 11.3),
                         ("L-4_H-512", 29.1), ("L-8_H-512", 41.7)):
    count = make_student_config.num_parameters(by_name[name])
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("flags, words", [
    ([], ("--layers", "--published")),
    (["--published=L-2_H-128", "--layers=2"], ("remove --layers",)),
    (["--published=L-2_H-128", "--hidden_size=2"],
     ("remove --hidden_size",)),
    (["--published=L-3_H-128"], ("--published", "L-2_H-128")),
    (["--layers=2", "--published_dir=a"], ("needs --published",)),
    (["--published=L-2_H-128", "--published_dir=a"], ("needs --vocab_file",)),
])
def test_bad_flags_of_a_published_shape_are_refused(tmp_path, flags, words):
  path, result = _run(tmp_path, "--max_seq_length=10", *flags)
  tiny.assert_one_line_error(result, *words)
  assert not path.exists()


def test_differences_of_vocabularies_are_described():
  compare = make_student_config.vocabulary_difference
  assert compare({"a": 0, "b": 1}, {"b": 1, "a": 0}) is None
  assert compare({"a": 0, "b": 1, "c": 2}, {"a": 0, "c": 1, "b": 2}) == (
      "2 of 3 ids have another token, such as 1: 'b' and 'c'")
  assert compare({"a": 0}, {"a": 0, "b": 1}) == (
      "1 of 1 ids have another token, such as 1: 'none' and 'b'")


@pytest.fixture(scope="module", name="published")
def _published(tmp_path_factory):
  """A teacher, labelled records, and a published small BERT."""
  folder = tiny.trainer_inputs(tmp_path_factory.mktemp("published"))
  (folder / "small").mkdir()
  shape = make_student_config.published_config(tiny.CONFIG, "L-2_H-128")
  tiny.write_checkpoint(folder / "small" / "bert_model.ckpt",
                        tiny.random_variables(shape, seed=3))
  names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(
      "w{}".format(i) for i in range(tiny.CONFIG.vocab_size - 5))]
  for path, tokens in ((folder / "vocab.txt", names),
                       (folder / "small" / "vocab.txt", names),
                       (folder / "other.txt", [*names[:-2], *names[:-3:-1]])):
    path.write_text("\n".join(tokens) + "\n")
  return folder


def _published_flags(folder, vocab_file="vocab.txt"):
  return ["--bert_config_file", folder / "bert_config.json", "--published",
          "L-2_H-128", "--published_dir", folder / "small", "--vocab_file",
          folder / vocab_file, "--max_seq_length=10"]


@pytest.mark.slow
def test_a_student_starts_from_a_published_model(tmp_path, published):
  """The student has another hidden size, and every published variable."""
  config = tmp_path / "student.json"
  result = tiny.run_script(
      "examples/make_student_config.py", "--output_file", config,
      *_published_flags(published))
  assert result.returncode == 0, result.stderr
  assert "differ" not in result.stderr and "lacks" not in result.stderr
  result = tiny.run_script(
      "network_distillation_single_machine_truncated.py", *tiny.SHAPE_FLAGS,
      "--bert_config_file", config, "--init_checkpoint",
      published / "small" / "bert_model.ckpt", "--input_file",
      published / "labelled.tfrecord", "--output_dir", tmp_path / "run",
      "--truncation_factor=4", "--do_train", "True", "--num_train_steps=1",
      "--num_warmup_steps=0", "--learning_rate=1e-9")
  assert result.returncode == 0, result.stderr
  exported = tiny.read_checkpoint(tmp_path / "run/student/bert_model.ckpt")
  for name, value in tiny.read_checkpoint(
      published / "small" / "bert_model.ckpt").items():
    np.testing.assert_allclose(exported[name], value, atol=1e-6, err_msg=name)


def test_another_vocabulary_gives_a_warning(tmp_path, published):
  result = tiny.run_script(
      "examples/make_student_config.py", "--output_file", tmp_path / "a.json",
      *_published_flags(published, "other.txt"))
  assert result.returncode == 0, result.stderr
  assert "differ: 2 of 29 ids have another token, such as 27" in result.stderr


def test_a_published_model_of_another_shape_is_refused(tmp_path, published):
  tiny.assert_one_line_error(tiny.run_script(
      "examples/make_student_config.py", "--output_file", tmp_path / "a.json",
      *_published_flags(published), "--published=L-2_H-256",
      "--verbosity=-2"), "--published_dir", "has shape [29, 128], but "
                             "shape [29, 256] by --published and "
                             "--bert_config_file; use")


def test_a_bad_vocabulary_of_a_published_model_is_refused(tmp_path, published):
  for path in (published / "small").glob("bert_model*"):
    (tmp_path / path.name).write_bytes(path.read_bytes())
  (tmp_path / "vocab.txt").write_text("[UNK]\n")
  shape = make_student_config.published_config(tiny.CONFIG, "L-2_H-128")
  with pytest.raises(InputError) as error:
    make_student_config.check_published(
        shape, str(tmp_path), str(published / "vocab.txt"))
  assert str(error.value).startswith(
      "--published_dir: {} has 1 lines".format(tmp_path / "vocab.txt"))
