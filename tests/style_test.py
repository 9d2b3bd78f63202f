"""Tests that linter and type checker find nothing, set by pyproject.toml."""

import subprocess
import sys

import tiny


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
