"""Tests that the linter finds nothing; its settings are in pyproject.toml."""

import subprocess
import sys

import tiny


def test_the_linter_finds_nothing():
  result = subprocess.run(
      [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format",
       "concise", str(tiny.ROOT)], stdout=subprocess.PIPE, text=True,
      check=False)
  assert result.returncode == 0, result.stdout
