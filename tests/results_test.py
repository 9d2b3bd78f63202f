"""Tests that README and docs have the figures of docs/figures."""

import json
import re
import statistics
import sys

import pytest

import tiny

_FIGURES = tiny.ROOT / "docs" / "figures"
sys.path.append(str(_FIGURES))
import tables  # pylint: disable=wrong-import-position

_METRICS = {"accuracy": "masked_lm_accuracy",
            "cross entropy": "masked_lm_cross_entropy",
            "agreement": "teacher_top1_agreement",
            "KL from the teacher": "kl_from_teacher",
            "calibration error": "expected_calibration_error"}
# For each table: the file of the runs, their steps, and the recipe of each row.
_RECIPES = {
    "forms": ("little_text.json", 1000, {
        "text only": "hard labels", "top 10, `--tail_mass drop`":
        "top 10, drop", "top 10, `--tail_mass bucket`": "top 10, bucket",
        "10 tokens, 9 sampled": "sample", "whole distribution": "hidden",
        "whole distribution, `--hidden_cosine_weight 1`": "hidden, cosine 1"}),
    "forms_scratch": ("small.json", 3000, {
        "text only": "hard labels", "10 tokens, 9 sampled": "sample"}),
}


@pytest.mark.parametrize("document", tables.DOCUMENTS)
def test_tables_equal_the_figures(document):
  text = (tiny.ROOT / document).read_text(encoding="utf-8")
  assert text.count("<!-- table ") >= 1
  assert tables.with_tables(text, tables.read_figures()) == text


def test_cells_are_formatted_by_kind():
  figures = dict(tables.read_figures(), mine={
      "columns": ["a", "b"], "rows": [
          ["x", [0.12345, 0.001]], [0.5, None], [12000, "0.5"]]})
  assert tables.with_tables(
      "<!-- table mine -->\nold\n<!-- end -->\n", figures) == (
          "<!-- table mine -->\n| a | b |\n|---|---|\n| x | 0.123 ± 0.001 |\n"
          "| 0.500 |  |\n| 12,000 | 0.5 |\n<!-- end -->\n")


@pytest.mark.parametrize("name", list(_RECIPES))
def test_figures_are_means_of_the_runs(name):
  file, steps, recipes = _RECIPES[name]
  runs = json.loads((_FIGURES / file).read_text())["runs"]
  table = tables.read_figures()[name]
  num_compared = 0
  assert set(recipes) <= {row[0] for row in table["rows"]}
  for row in table["rows"]:
    cells = dict(zip(table["columns"], row))
    found = [run["results"] for run in runs
             if run["recipe"] == recipes.get(row[0]) and run["steps"] == steps]
    if row[0] not in recipes:
      continue
    assert len(found) == cells["seeds"], row[0]
    for column, metric in _METRICS.items():
      if metric not in found[0]:
        continue
      values = [results[metric] for results in found]
      cell = cells[column]
      mean, deviation = cell if isinstance(cell, list) else (cell, 0)
      assert mean == pytest.approx(statistics.mean(values), abs=6e-4)
      if len(values) > 1:
        assert deviation == pytest.approx(statistics.stdev(values), abs=6e-4)
      num_compared += 1
  assert num_compared >= 4


def test_figures_in_sentences_are_in_a_table():
  figures = tables.read_figures()
  known = set(re.findall(r"\b\d+\.\d{3}\b", tables.with_tables(
      "".join("<!-- table {} -->\n<!-- end -->\n".format(name)
              for name in figures), figures)))
  for document in tables.DOCUMENTS:
    text = (tiny.ROOT / document).read_text(encoding="utf-8")
    # Remove the tables.
    text = re.sub(r"<!-- .*?<!-- end -->", "", text, flags=re.DOTALL)
    found = set(re.findall(r"\b\d+\.\d{3}\b", text))
    assert found <= known, (document, found - known)
