"""Tests of the plots of results."""

import json
import re
import subprocess

import pytest
import tensorflow as tf

pytest.importorskip("matplotlib")
# pylint: disable=wrong-import-position
from examples import plot_results
import tiny

tf1 = tf.compat.v1


def _run(recipe, steps, seed, accuracy):
  return {"student": "a", "recipe": recipe, "steps": steps, "seed": seed,
          "results": {"masked_lm_accuracy": accuracy,
                      "masked_lm_cross_entropy": 10 - 10 * accuracy}}


_RUNS = [
    _run("hard labels", 100, 1, 0.1), _run("hard labels", 100, 2, 0.3),
    _run("hard labels", 400, 1, 0.4), _run("drawn", 100, 1, 0.3),
    _run("drawn", 400, 1, 0.5), _run("one point", 100, 1, 0.2)]


def test_steps_that_the_baseline_needs():
  curve = plot_results.curves(_RUNS, "masked_lm_accuracy")["hard labels"]
  assert [(point.steps, point.mean) for point in curve] == [
      (100, pytest.approx(0.2)), (400, 0.4)]
  # 0.3 is half-way; 200 is half-way from 100 to 400 in logarithms.
  assert plot_results.steps_to_reach(curve, 0.3, True) == pytest.approx(200)
  for value in (0.1, 0.5):
    assert plot_results.steps_to_reach(curve, value, True) is None
  losses = plot_results.curves(_RUNS, "masked_lm_cross_entropy")["hard labels"]
  assert plot_results.steps_to_reach(losses, 7, False) == pytest.approx(200)


def test_the_picture_and_the_report_are_written(tmp_path):
  (tmp_path / "results.json").write_text(json.dumps({"runs": _RUNS}))
  pictures = []
  for name in ("new/a.svg", "b.svg"):
    result = tiny.run_script(
        "examples/plot_results.py", "--results_file",
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
      "on both sides of this value"]


def test_a_picture_shows_the_names_of_the_flag(tmp_path):
  (tmp_path / "results.json").write_text(json.dumps({
      "runs": _RUNS, "models": [
          {"model": "teacher", "results": {"masked_lm_accuracy": 0.6}}]}))
  result = tiny.run_script(
      "examples/plot_results.py", "--results_file", tmp_path / "results.json",
      "--student=a", "--metrics=masked_lm_accuracy", "--output_file",
      tmp_path / "a.svg", "--names=hard labels=text, only;drawn=labels")
  assert result.returncode == 0, result.stderr
  assert "labels, 100 steps: masked_lm_accuracy 0.3000; text, only needs" in (
      result.stdout)
  texts = re.findall("<!-- (.*) -->", (tmp_path / "a.svg").read_text())
  assert {"text, only", "labels", "teacher"} < set(texts)
  assert not {"hard labels", "drawn", "one point"} & set(texts)
  assert not any("cross entropy" in text for text in texts)


@pytest.mark.parametrize("flag, value, told", [
    ("student", "b", "--student=b is not in"),
    ("baseline", "soft labels", "--baseline=soft labels is not in"),
    ("output_file", "a.txt", "--output_file=a.txt must end in"),
    ("names", "soft labels=a", "--names: soft labels=a: "),
    ("names", "a", "--names: expected"),
    ("metrics", "loss", "found 'loss'"), ("metrics", "", "found ''"),
    ("results_file", "none.json", "no file none.json"),
    ("results_file", __file__, __file__ + " is not a results.json")])
def test_bad_flags_are_refused(tmp_path, flag, value, told):
  (tmp_path / "results.json").write_text(json.dumps({"runs": _RUNS}))
  values = {"results_file": tmp_path / "results.json", "student": "a",
            "output_file": tmp_path / "a.svg", flag: value}
  result = tiny.run_script(
      "examples/plot_results.py",
      *("--{}={}".format(*item) for item in values.items()))
  tiny.assert_one_line_error(result, "--" + flag, told)


def _write_events(folder, values):
  """Writes events as a trainer does: a value of each metric for each step."""
  with tf.Graph().as_default() as graph:
    # File names have only seconds, which are equal for two writers in a row.
    writer = tf1.summary.FileWriter(
        str(folder / "eval"), graph, filename_suffix="." + str(values[0][0]))
  for step, accuracy in values:
    writer.add_summary(tf1.Summary(value=[
        tf1.Summary.Value(tag=tag, simple_value=value)
        for tag, value in _run("", 0, 0, accuracy)["results"].items()]), step)
  writer.close()


@pytest.mark.slow
def test_curves_of_trainings(tmp_path):
  _write_events(tmp_path / "a", [(0, 0.1), (10, 0.2), (20, 0.4), (20, 0.5)])
  # An interrupted and resumed run.
  _write_events(tmp_path / "b", [(0, 0.1)])
  _write_events(tmp_path / "b", [(20, 0.3)])
  curve = plot_results.read_events(str(tmp_path / "a"), "masked_lm_accuracy")
  assert [point.steps for point in curve] == [0, 10, 20]
  assert [point.mean for point in curve] == pytest.approx([0.1, 0.2, 0.5])
  (tmp_path / "eval_results.txt").write_text(
      "masked_lm_accuracy = 0.6\nmasked_lm_cross_entropy = 3.5\n")
  command = [
      "examples/plot_results.py", "--output_file", tmp_path / "a.svg",
      "--runs=first={0}/a,second={0}/b".format(tmp_path)]
  result = tiny.run_script(
      *command, "--references=teacher={}".format(tmp_path))
  assert result.returncode == 0, result.stderr
  assert "event_accumulator" not in result.stderr
  picture = (tmp_path / "a.svg").read_text()
  for name in ("first", "second", "teacher"):
    assert picture.count("<!-- {} -->".format(name)) == 1
  for flag, value, told in (
      ("references", "teacher", "expected NAME=FOLDER"),
      ("references", "teacher=" + str(tmp_path / "a"), "there is no file"),
      ("runs", "a=" + str(tmp_path), "--eval_every_checkpoint")):
    tiny.assert_one_line_error(
        tiny.run_script(*command, "--{}={}".format(flag, value)),
        "--" + flag, told)
  tiny.assert_one_line_error(
      tiny.run_script(*command, "--results_file=a.json"),
      "one of --runs, --results_file and --benchmarks_file")


def test_students_over_the_bytes_of_their_labels(tmp_path):
  command = ["examples/plot_results.py", "--results_file",
             tmp_path / "results.json", "--student=a", "--label_bytes=True",
             "--output_file", tmp_path / "a.svg"]
  (tmp_path / "results.json").write_text(json.dumps({"runs": _RUNS}))
  tiny.assert_one_line_error(
      tiny.run_script(*command), "--results_file", "compare_students.py again")
  (tmp_path / "results.json").write_text(json.dumps({
      "runs": _RUNS,
      "label_bytes": {"hard labels": 0, "drawn": 700.5, "one point": 1000}}))
  result = tiny.run_script(*command)
  assert result.returncode == 0, result.stderr
  picture = (tmp_path / "a.svg").read_text()
  assert "bytes of labels" in picture
  # The recipe "one point" has no run of 400 steps.
  for name, count in (("hard labels", 1), ("drawn", 1), ("one point", 0)):
    assert picture.count("<!-- {} -->".format(name)) == count
  (tmp_path / "results.json").write_text(json.dumps({
      "runs": [dict(_RUNS[0], results={})]}))
  tiny.assert_one_line_error(tiny.run_script(*command), "--results_file")


def test_ratios_to_the_peers(tmp_path):
  path = tmp_path / "results.json"
  rows = [{"what": "reader", "peer": {"name": "other"}, "ratio": 2.5},
          {"what": "labels", "peer": {"name": "none", "absent": "it is"},
           "ratio": None}]
  path.write_text(json.dumps({"parts": {"a": {"rows": rows}}}))
  assert plot_results.read_ratios(str(path)) == {"reader\nother": 2.5}
  command = ["examples/plot_results.py", "--benchmarks_file", path,
             "--output_file", tmp_path / "a.svg"]
  result = tiny.run_script(*command)
  assert result.returncode == 0, result.stderr
  assert "<!-- 2.5 -->" in (tmp_path / "a.svg").read_text()
  path.write_text("[]")
  tiny.assert_one_line_error(
      tiny.run_script(*command), "--benchmarks_file", "benchmarks/run.py")


def test_the_pictures_of_the_documents_can_be_drawn_again(tmp_path):
  subprocess.run([tiny.ROOT / "docs/figures/draw.sh", tmp_path], check=True,
                 stdout=subprocess.DEVNULL)
  drawn = sorted(path.name for path in tmp_path.iterdir())
  assert len(drawn) >= 2
  for name in drawn:
    texts = [re.findall("<!-- (.*) -->", (folder / name).read_text())
             for folder in (tmp_path, tiny.ROOT / "docs")]
    assert texts[0] == texts[1]
