"""Tests of the picture of students over steps."""

import json

import pytest

pytest.importorskip("matplotlib")
# pylint: disable=wrong-import-position
from examples import plot_students
import tiny


def _run(recipe, steps, seed, accuracy):
  return {"student": "a", "recipe": recipe, "steps": steps, "seed": seed,
          "results": {"masked_lm_accuracy": accuracy,
                      "masked_lm_cross_entropy": 10 - 10 * accuracy}}


_RUNS = [
    _run("hard labels", 100, 1, 0.1), _run("hard labels", 100, 2, 0.3),
    _run("hard labels", 400, 1, 0.4), _run("drawn", 100, 1, 0.3),
    _run("drawn", 400, 1, 0.5), _run("one point", 100, 1, 0.2)]


def test_steps_that_the_baseline_needs():
  curve = plot_students.curves(_RUNS, "masked_lm_accuracy")["hard labels"]
  assert [(point.steps, point.mean) for point in curve] == [
      (100, pytest.approx(0.2)), (400, 0.4)]
  # Half-way by the logarithm.
  assert plot_students.steps_to_reach(curve, 0.3, True) == pytest.approx(200)
  for value in (0.1, 0.5):
    assert plot_students.steps_to_reach(curve, value, True) is None
  losses = plot_students.curves(_RUNS, "masked_lm_cross_entropy")["hard labels"]
  assert plot_students.steps_to_reach(losses, 7, False) == pytest.approx(200)


def test_the_picture_and_the_report(tmp_path):
  (tmp_path / "results.json").write_text(json.dumps({"runs": _RUNS}))
  pictures = []
  for name in ("new/a.svg", "b.svg"):
    result = tiny.run_script(
        "examples/plot_students.py", "--results_file",
        tmp_path / "results.json", "--student=a", "--output_file",
        tmp_path / name)
    assert result.returncode == 0, result.stderr
    pictures.append((tmp_path / name).read_text())
  assert pictures[0] == pictures[1]
  assert pictures[0].count("<svg") == 1
  assert result.stdout.splitlines()[:2] == [
      "drawn, 100 steps: masked_lm_accuracy 0.3000; hard labels needs 200 "
      "steps, 2.0 times as many",
      "drawn, 400 steps: masked_lm_accuracy 0.5000; hard labels has no points "
      "on both sides of it"]


@pytest.mark.parametrize("flag, value", [
    ("student", "b"), ("baseline", "soft labels"), ("output_file", "a.txt"),
    ("results_file", "none.json"), ("results_file", __file__)])
def test_what_is_not_there(tmp_path, flag, value):
  (tmp_path / "results.json").write_text(json.dumps({"runs": _RUNS}))
  values = {"results_file": tmp_path / "results.json", "student": "a",
            "output_file": tmp_path / "a.svg", flag: value}
  result = tiny.run_script(
      "examples/plot_students.py",
      *("--{}={}".format(*item) for item in values.items()))
  tiny.assert_one_line_error(result, "--" + flag, value)
