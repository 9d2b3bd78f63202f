"""Tests of parsing command lines and reporting errors."""

import ast
import subprocess
import sys

import pytest

import tiny

# A script with every kind of flag.
_SCRIPT = '''
"""Says what its flags are.

  python script.py --name x
"""
import sys
sys.path.insert(0, {root!r})
from absl import flags
from util import command_line

def main():
  values = flags.FLAGS
  if values.count == 3:
    raise command_line.InputError("--count is 3,\\n  which is\\n  unlucky")
  if values.count == 4:
    raise KeyboardInterrupt
  if values.count == 5:
    raise RuntimeError("a bug")
  if values.count == 6:
    raise ValueError("a bug")
  if values.count == 7:
    raise KeyboardInterrupt("run it again")
  if values.count == 8:
    open("no such file")
  sys.stdout.write("name={{}} flag={{}} count={{}}".format(
      values.name, values.flag, values.count))

if __name__ == "__main__":
  flags.DEFINE_string("name", None, "A name. Any name.")
  flags.DEFINE_bool("flag", False, "A truth.")
  flags.DEFINE_integer("count", 1, "A number.", lower_bound=1)
  flags.DEFINE_float("share", 1.0, "A number, too.")
  command_line.run(main, required=("name",))
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp("script") / "script.py"
  path.write_text(_SCRIPT.format(root=str(tiny.ROOT)))

  def run_with(*arguments):
    return subprocess.run(
        [sys.executable, str(path), *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, check=False)

  return run_with


@pytest.mark.parametrize("words, expected", [
    (("--flag",), True), (("--flag=true",), True), (("--flag", "True"), True),
    (("--flag", "1"), True), (("-flag", "t"), True), (("--noflag",), False),
    (("--flag", "False"), False), (("--flag", "false"), False),
    (("--flag=False",), False), (("--flag", "0"), False), ((), False),
])
def test_a_boolean_flag_takes_a_separate_value(run, words, expected):
  result = run("--name", "x", *words, "--count", "2")
  assert result.stdout == "name=x flag={} count=2".format(expected)
  assert result.returncode == 0


@pytest.mark.parametrize("words", [
    ("stray",), ("--flag", "perhaps"), ("--noflag", "True"),
    ("--count", "2", "2"),
])
def test_a_stray_word_is_an_error(run, words):
  tiny.assert_one_line_error(run("--name=x", *words), "unexpected word",
                             words[-1])


def test_a_value_that_is_no_truth_value_names_its_flag(run):
  tiny.assert_one_line_error(
      run("--name=x", "--flag", "maybe"), "--flag maybe", "True or False")


def test_a_misspelt_flag_names_the_nearest_one(run):
  tiny.assert_one_line_error(run("--name=x", "--conut=2"), "conut", "count")


@pytest.mark.parametrize("words, told", [
    (("--name=x", "--count=0"), ("count", "0")),
    (("--name=x", "--count=many"), ("--count=many: give a whole number",)),
    (("--name=x", "--share=1e-x"), ("--share=1e-x: give a number",)),
    (("--name=x", "--unheard=1"), ("unheard",)),
    ((), ("--name", "A name")),
    (("--name=x", "--count=3"), ("--count is 3, which is unlucky",)),
    (("--name=x", "--count=8"), ("No such file", "no such file")),
])
def test_an_error_is_one_line(run, words, told):
  tiny.assert_one_line_error(run(*words), *told)


def test_verbosity_shows_the_traceback_of_an_error(run):
  result = run("--name=x", "--count=3", "--verbosity=1")
  assert result.returncode == 1
  assert "Traceback" in result.stderr


@pytest.mark.parametrize("count, error", [
    ("5", "RuntimeError: a bug"), ("6", "ValueError: a bug")])
def test_a_bug_keeps_its_traceback(run, count, error):
  result = run("--name=x", "--count", count)
  assert result.returncode == 1
  assert result.stderr.startswith("Traceback")
  assert result.stderr.endswith(error + "\n")


@pytest.mark.parametrize("count, message", [
    ("4", "interrupted"), ("7", "interrupted; run it again")])
def test_an_interrupt_is_one_line(run, count, message):
  result = run("--name=x", "--count", count)
  assert result.returncode == 130
  assert result.stderr == "script.py: {}\n".format(message)


def test_help_lists_the_required_flag_first(run):
  result = run("--help")
  assert result.returncode == 0
  assert result.stdout.startswith("Says what its flags are.")
  flags = [line.split()[0] for line in result.stdout.splitlines()
           if line.startswith("  --")]
  assert flags == ["--name", "--flag", "--count", "--share"]


def _python_files():
  """Returns the modules of the repository, without tests."""
  folders = ("", "benchmarks", "distillation", "examples",
             "extract_wikipedia_for_bert", "records", "util")
  return sorted(path for folder in folders
                for path in (tiny.ROOT / folder).glob("*.py"))


@pytest.mark.parametrize(
    "path", _python_files(), ids=lambda path: str(path.relative_to(tiny.ROOT)))
def test_commands_in_the_help_keep_their_lines(path):
  """In a docstring that is not raw, a backslash joins two lines."""
  source = path.read_text(encoding="utf-8")
  tree = ast.parse(source)
  text = ast.get_docstring(tree, clean=False)
  if text is not None:
    literal = ast.get_source_segment(source, tree.body[0])
    assert literal.lstrip("r").strip('"') == text
