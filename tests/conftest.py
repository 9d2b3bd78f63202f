"""Fixtures and options that the tests share."""

import os
import pathlib
import sys
import tempfile

import hypothesis
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_FUZZ_INPUTS, _MORE_FUZZ_INPUTS = 2000, 100000


def pytest_addoption(parser):
  parser.addoption(
      "--fuzz", action="store_true",
      help="give each fuzz test {:,} inputs instead of {:,}".format(
          _MORE_FUZZ_INPUTS, _FUZZ_INPUTS))


def pytest_configure(config):
  """Makes the inputs of fuzz tests the same in each run; keeps none of them."""
  # Where Hypothesis keeps tables of Unicode.
  os.environ.setdefault(
      "HYPOTHESIS_STORAGE_DIRECTORY",
      os.path.join(tempfile.gettempdir(), "hypothesis"))
  hypothesis.settings.register_profile(
      "fuzz", derandomize=True, database=None, deadline=None,
      max_examples=_MORE_FUZZ_INPUTS if config.getoption("--fuzz")
      else _FUZZ_INPUTS,
      suppress_health_check=list(hypothesis.HealthCheck))
  hypothesis.settings.load_profile("fuzz")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of real data and golden outputs beside the repository."""
  folder = pathlib.Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
  if not folder.is_dir():
    pytest.skip("there is no folder {} with real data; set SHARED_DIR".format(
        folder))
  return folder
