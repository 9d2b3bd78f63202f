"""Tests of style: linter, type checker and docstrings."""

import ast
import pathlib
import subprocess
import sys

import pytest
import tiny

# A summary line names a thing or begins with a verb of documentation.
_OPENINGS = ("How", "Says", "Tells", "What", "Where", "Which", "Who")


def test_the_linter_finds_nothing():
  result = subprocess.run(
      [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format",
       "concise", str(tiny.ROOT)], stdout=subprocess.PIPE, text=True,
      check=False)
  assert result.returncode == 0, result.stdout


def test_the_type_checker_finds_nothing():
  result = subprocess.run(
      [sys.executable, "-m", "mypy"], cwd=tiny.ROOT, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, text=True, check=False)
  assert result.returncode == 0, result.stdout


def _summaries(source):
  """Yields the summary lines of the docstrings of a module's source."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
      docstring = ast.get_docstring(node)
      if docstring:
        yield docstring.split("\n")[0]


@pytest.mark.parametrize("folder", [
    ".", "benchmarks", "distillation", "docs", "examples",
    "extract_wikipedia_for_bert", "records", "tests", "util"])
def test_docstrings_open_with_a_verb_or_a_noun(folder):
  root = pathlib.Path(tiny.ROOT, folder)
  paths = sorted(root.glob("*.py" if folder == "." else "**/*.py"))
  assert paths
  found = ["{}: {}".format(path.relative_to(tiny.ROOT), summary)
           for path in paths
           for summary in _summaries(path.read_text(encoding="utf-8"))
           if summary.split()[0] in _OPENINGS]
  assert not found, "\n".join(found)


def test_summaries_of_all_kinds_are_found():
  assert list(_summaries(
      '"""Module."""\nclass A:\n  """Class."""\n  def b(self):\n'
      '    """Method.\n\n    More.\n    """\ndef c():\n  pass\n')) == [
          "Module.", "Class.", "Method."]
