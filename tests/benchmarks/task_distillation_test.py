"""Tests of the inputs and statistics of the task distillation benchmark."""

import json
import statistics
import sys

import numpy as np
import pytest

import tiny
from util.command_line import InputError

sys.path.append(str(tiny.ROOT / "benchmarks"))
import task_distillation  # pylint: disable=wrong-import-position


def test_bootstrap_of_paired_sentences():
  """Compares with the normal approximation: 400 sentences, 40 won, 20 lost."""
  hard = np.zeros([2, 400], bool)
  distilled = np.zeros([2, 400], bool)
  hard[:, :120] = True
  distilled[:, 20:160] = True
  low, high, share = task_distillation.bootstrap(hard, distilled)
  # The difference is 0.05, its variance (60 / 400 - 0.05^2) / 400.
  error = np.sqrt((60 / 400 - 0.05 ** 2) / 400)
  assert low == pytest.approx(0.05 - 1.96 * error, abs=0.003)
  assert high == pytest.approx(0.05 + 1.96 * error, abs=0.003)
  assert share == pytest.approx(0.0048, abs=0.003)
  # More seeds are no more sentences, so twice the seeds change nothing.
  assert task_distillation.bootstrap(
      np.tile(hard, [2, 1]), np.tile(distilled, [2, 1])) == (low, high, share)
  assert task_distillation.bootstrap(hard, hard) == (0, 0, 1)


def test_summary_compares_equal_seeds():
  runs = [dict(zip(("size", "student", "method", "seed", "is_correct"), run))
          for run in ((2400, "a", "hard", 1, "1100"),
                      (2400, "a", "distilled", 1, "1110"),
                      (2400, "a", "hard", 2, "1000"),
                      (2400, "a", "distilled", 2, "1111"),
                      (2400, "a", "hard", 3, "0000"),
                      (2400, "b", "hard", 1, "1000"))]
  assert task_distillation.summary(runs).splitlines()[2:] == [
      "| a | 2,400 | 2 | 0.3750 ± 0.1768 | 0.8750 ± 0.1768 | +0.5000 | "
      "+0.1250 to +0.8750 | 0.0044 |"]  # The exact share is 1 / 4^4 = 0.0039.


def test_each_seed_completes_all_settings_before_the_next():
  runs = list(task_distillation.all_runs([2400, 9607], ["a", "b"], [1, 2]))
  assert len(set(runs)) == 16
  assert {run[:3] for run in runs[:8]} == {run[:3] for run in runs[8:]}
  assert [run.seed for run in runs] == [1] * 8 + [2] * 8


def test_sentences_come_from_all_parts_of_a_text(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text("".join(
      "sentence number {} of ten\n\ntoo short\n".format(i) for i in range(10)))
  assert task_distillation.sentences(path, 3) == [
      "sentence number {} of ten".format(i) for i in (0, 3, 6)]
  with pytest.raises(InputError, match="has 10 sentences of 5 to 32 words"):
    task_distillation.sentences(path, 11)


# --- Inputs and results ------------------------------------------------------


@pytest.mark.parametrize("flag, values, words", [
    ("sizes", ["2400", "many"], "--sizes=2400,many: 'many' is not a whole"),
    ("sizes", ["0"], "--sizes=0: '0' is not a whole number of 1 or more"),
    ("seeds", ["-1"], "--seeds=-1: '-1'"),
    ("seeds", ["1.5"], "--seeds=1.5: '1.5'"),
    ("seeds", [], "--seeds= must have at least one value"),
    ("seeds", ["1", "1"], "--seeds=1,1 must have .* no value twice"),
    ("students", ["small", "large"],
     "--students=small,large: there is no student 'large'; give small or lay"),
    ("students", [], "--students= must have"),
])
def test_a_bad_list_is_refused(flag, values, words):
  with pytest.raises(InputError, match=words):
    if flag == "students":
      task_distillation.parse_students(values)
    else:
      task_distillation.parse_numbers(flag, values, int(flag == "sizes"))


def test_lists_of_flags():
  assert task_distillation.parse_numbers("seeds", ["3", "0"], 0) == [3, 0]
  assert task_distillation.parse_students(["layers"]) == [
      task_distillation._LAYERS]


@pytest.fixture(name="where")
def _where(tmp_path):
  """Inputs; the teacher has no checkpoint that can be read."""
  (tmp_path / "teacher").mkdir()
  for name, content in (
      ("teacher/bert_config.json", "{}"), ("teacher/bert_model.ckpt.index", ""),
      ("train.tsv", "\ufeffno\ta\u2028b\nyes\tc\td\nno\te"),
      ("heldout.tsv", "no\ta\nyes\tb\tc\n"),
      ("text.txt", "one two three four five\n")):
    (tmp_path / name).write_text(content, encoding="utf-8")
  return task_distillation.Files(*(tmp_path / name for name in (
      "teacher", "train.tsv", "heldout.tsv", "text.txt", "out")))


def test_texts_keep_pairs_and_separators(where):
  task_distillation.write_texts(where, [2], 1)
  assert where.labelled(2).read_text(encoding="utf-8") == (
      "no\ta\u2028b\nyes\tc\td\n")
  assert (where.output / "texts.txt").read_text(encoding="utf-8") == (
      "a\u2028b\nc\td\ne\none two three four five\n")
  assert (where.output / "heldout.txt").read_text() == "a\nb\tc\n"
  with pytest.raises(InputError, match="--sizes: 4 is more than the 3 lines"):
    task_distillation.write_texts(where, [4], 1)


def test_soft_labels_of_other_texts_are_no_results(where, tmp_path):
  path = tmp_path / "soft.tsv"
  rows = ["p(no)\tp(yes)\ttext\ttext_2", "1\t0\ta\t", "0.75\t0.25\tb\tc"]
  path.write_text("\n".join(rows) + "\n")
  assert task_distillation.is_correct(where, path) == "10"
  path.write_text("\n".join(rows[:-1]) + "\n")
  with pytest.raises(InputError, match="--heldout_file=.* other texts than"):
    task_distillation.is_correct(where, path)


@pytest.fixture(name="stored")
def _stored(where, monkeypatch):
  """The run of a benchmark that has stored its results."""
  run, = list(task_distillation.all_runs(
      [2], [task_distillation._SMALL], [1]))[:1]
  monkeypatch.setattr(task_distillation, "make_teacher", lambda *_: None)
  monkeypatch.setattr(
      task_distillation, "train",
      lambda _, run: dict(run._asdict(), accuracy=1.0))
  where.output.mkdir()
  task_distillation.measure(
      where, [run], [], task_distillation.fingerprints(where, 1))
  return run


@pytest.mark.parametrize("name, path", [
    ("teacher_dir", "teacher/bert_config.json"),
    ("teacher_dir", "teacher/bert_model.ckpt.index"),
    ("train_file", "train.tsv"), ("heldout_file", "heldout.tsv"),
    ("text_file", "text.txt"), ("num_texts", None)])
def test_changed_inputs_are_refused(where, stored, name, path):
  inputs = task_distillation.fingerprints(where, 1)
  done = task_distillation.read_results(where, inputs)
  assert [run["seed"] for run in done] == [stored.seed]
  if path:
    with open(where.train.parent / path, "a", encoding="utf-8") as file:
      file.write("more")
  with pytest.raises(InputError) as error:
    task_distillation.read_results(where, task_distillation.fingerprints(
        where, 1 if path else 2))
  assert str(error.value).startswith("--{0} differs from the {0} of".format(
      name))


def test_results_without_fingerprints_are_read(where, stored):
  path = where.output / "results.json"
  runs = json.loads(path.read_text())["runs"]
  path.write_text(json.dumps(runs))
  inputs = task_distillation.fingerprints(where, 2)
  assert task_distillation.read_results(where, inputs) == runs
  # The next run adds the fingerprints.
  more = task_distillation.measure(
      where, [stored, stored._replace(seed=2)], runs, inputs)
  assert [run["seed"] for run in more] == [1, 2]
  assert json.loads(path.read_text()) == {"inputs": inputs, "runs": more}
  for content in ("{", "3", '{"runs": []}'):
    path.write_text(content)
    with pytest.raises(InputError, match="results.json is damaged"):
      task_distillation.read_results(where, inputs)


def test_the_table_in_the_docs_equals_the_stored_runs():
  figures = tiny.ROOT / "docs" / "figures"
  runs = json.loads((figures / "task_distillation.json").read_text())
  rows = json.loads((figures / "tables.json").read_text(encoding="utf-8"))[
      "task_distilled"]["rows"]
  names = [(student, method)
           for student in (task_distillation._SMALL, task_distillation._LAYERS)
           for method in task_distillation._METHODS]
  assert [row[:2] for row in rows] == [
      [student, labels] for student in (
          "3 layers of width 192, from scratch", "the teacher's layers 0, 3")
      for labels in ("true labels", "true labels and soft labels")] + [
          ["teacher", "true labels"]]
  for (student, method), row in zip(names, rows[:-1]):
    found = [run for run in runs
             if (run["student"], run["method"]) == (student, method)]
    found = [run for run in found if any(
        other["student"] == student and other["seed"] == run["seed"]
        and other["method"] != method for other in runs)]
    assert len(found) == row[2]
    for cell, name in zip(row[3:], ("accuracy", "teacher_agreement")):
      mean = cell[0] if isinstance(cell, list) else cell
      assert mean == pytest.approx(
          statistics.mean(run[name] for run in found), abs=6e-5)
    for run in found:
      assert run["accuracy"] == pytest.approx(
          run["is_correct"].count("1") / 1055)
