"""Writes the tables of results into README.md and docs.

  python docs/figures/tables.py

The figures are in tables.json, beside this script. A table stands between the
comments `<!-- table NAME -->` and `<!-- end -->`. In tables.json a cell is a
text, a count, a figure of one run, or the mean of several runs and their
standard deviation.
"""

import json
import pathlib
import re
from typing import Any, List, Mapping

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/labels.md", "docs/results.md", "docs/using.md")
_FIGURES = pathlib.Path(__file__).with_name("tables.json")
# The README's table: these rows and columns of a table, and their new names.
_HEADLINE_OF = "forms"
_HEADLINE_ROWS = {
    "text only": "text only (hard labels)",
    "top 10, `--tail_mass drop`": "the teacher's top 10 tokens",
    "10 tokens, 9 sampled": "10 tokens, 9 of them sampled",
    "whole distribution": "the whole distribution"}
_HEADLINE_COLUMNS = {
    "labels": "the student trains on",
    "bytes per masked token": "bytes per masked token",
    "accuracy": "accuracy", "cross entropy": "cross entropy",
    "agreement": "agreement with the teacher"}


def read_figures() -> Mapping[str, Any]:
  """Returns columns and rows of each table, by name."""
  return json.loads(_FIGURES.read_text(encoding="utf-8"))


def _headline(figures: Mapping[str, Any]) -> Mapping[str, Any]:
  source = figures[_HEADLINE_OF]
  columns = [source["columns"].index(name) for name in _HEADLINE_COLUMNS]
  rows = {row[0]: [row[column] for column in columns]
          for row in source["rows"]}
  return {"columns": list(_HEADLINE_COLUMNS.values()),
          "rows": [[name, *rows[row][1:]]
                   for row, name in _HEADLINE_ROWS.items()]}


def _cell(value: Any) -> str:
  if value is None:
    return ""
  if isinstance(value, list):
    return " ± ".join(map("{:.3f}".format, value))
  if isinstance(value, float):
    return "{:.3f}".format(value)
  return "{:,}".format(value) if isinstance(value, int) else value


def _lines(table: Mapping[str, Any]) -> List[str]:
  rows = [table["columns"], *(map(_cell, row) for row in table["rows"])]
  lines = ["| {} |".format(" | ".join(row)) for row in rows]
  return [lines[0], "|---" * len(table["columns"]) + "|", *lines[1:]]


def with_tables(text: str, figures: Mapping[str, Any]) -> str:
  """Returns a document with its tables as the figures have them.

  Args:
    text: the document.
    figures: columns and rows of each table, by name.
  """
  tables = dict(figures, headline=_headline(figures))
  return re.sub(
      r"(<!-- table (\w+) -->\n).*?(?=<!-- end -->)",
      lambda match: match[1] + "\n".join(_lines(tables[match[2]])) + "\n",
      text, flags=re.DOTALL)


def main() -> None:
  figures = read_figures()
  for document in DOCUMENTS:
    path = ROOT / document
    path.write_text(with_tables(path.read_text(encoding="utf-8"), figures),
                    encoding="utf-8")


if __name__ == "__main__":
  main()
