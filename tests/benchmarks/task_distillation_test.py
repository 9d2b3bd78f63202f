"""Tests of the statistics of the task distillation benchmark."""

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
