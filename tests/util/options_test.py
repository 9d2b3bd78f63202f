"""Tests of building option objects from flags."""

import dataclasses
from typing import List, Optional

from absl import flags
import pytest

from util import command_line


@dataclasses.dataclass(frozen=True)
class _Inner:
  size: int = 1
  names: Optional[List[str]] = None


@dataclasses.dataclass(frozen=True)
class _Outer:
  path: str
  is_wanted: bool
  inner: _Inner = _Inner()


@pytest.fixture(name="values")
def _values(monkeypatch):
  """Flags of every field, visible only to the current test."""
  values = flags.FlagValues()
  flags.DEFINE_string("path", None, "", flag_values=values)
  flags.DEFINE_bool("is_wanted", False, "", flag_values=values)
  flags.DEFINE_integer("size", 3, "", flag_values=values)
  flags.DEFINE_list("names", None, "", flag_values=values)
  monkeypatch.setattr(flags, "FLAGS", values)
  return values


def test_options_are_read_from_the_flags_of_their_fields(values):
  command_line.parse(["script.py", "--path=a", "--is_wanted", "True",
                      "--names=x,y"])
  assert command_line.options(_Outer) == _Outer(
      "a", True, _Inner(3, ["x", "y"]))
  values.unparse_flags()
  command_line.parse(["script.py", "--size=5"])
  assert command_line.options(_Inner).size == 5
