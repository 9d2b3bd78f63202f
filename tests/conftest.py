"""Fixtures that the tests share."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of real data and golden outputs beside the repository."""
  folder = pathlib.Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
  if not folder.is_dir():
    pytest.skip("there is no folder {} with real data; set SHARED_DIR".format(
        folder))
  return folder
