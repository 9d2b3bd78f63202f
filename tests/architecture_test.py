"""Tests of the imports between modules, and of the use of flags."""

import ast
import os
import subprocess
import sys

import pytest

import tiny

_CORE = {"modeling", "optimization", "tokenization"}
_PACKAGES = {"records", "distillation", "util", "extract_wikipedia_for_bert"}
# The project's modules that each package or module may import. Only the modules
# in _TENSORFLOW and _HOROVOD may import TensorFlow and Horovod.
_ALLOWED = {
    "script": {"distillation", "records", "util", "tokenization"},
    "distillation": {"distillation", "modeling", "optimization", "records",
                     "util"},
    "records": {"records", "util"},
    "records.sampling": {"records.schema", "tokenization", "util"},
    "util": {"util"},
    "extract_wikipedia_for_bert": {"extract_wikipedia_for_bert", "util"},
    "modeling": set(), "optimization": set(), "tokenization": set(),
}
_TENSORFLOW = {
    "modeling", "optimization", "distillation", "records.decoding",
    "records.input_pipeline",
    # Imports TensorFlow only for paths with a scheme.
    "util.remote",
    "extract_teacher_labels_truncated",
    "network_distillation_single_machine_truncated",
    "network_distillation_distributed_truncated"}
_HOROVOD = {"extract_teacher_labels_truncated",
            "network_distillation_distributed_truncated"}


def _modules():
  """Yields the name and the syntax tree of each module of the project."""
  for path in sorted([*tiny.ROOT.glob("*.py"), *(
      path for package in _PACKAGES
      for path in (tiny.ROOT / package).glob("*.py"))]):
    name = ".".join(path.relative_to(tiny.ROOT).with_suffix("").parts)
    yield name, ast.parse(path.read_text(encoding="utf-8"))


_TREES = dict(_modules())


def _imports(tree):
  """Returns the modules that a module imports, inside functions too."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "relative import"
      found.update(
          name if name in _TREES else node.module
          for name in ("{}.{}".format(node.module, alias.name)
                       for alias in node.names))
  return found


def _is_within(name, allowed):
  return any(name == other or name.startswith(other + ".")
             for other in allowed)


@pytest.mark.parametrize("name", _TREES)
def test_a_module_imports_only_allowed_modules(name):
  package = name.split(".")[0]
  kind = name if name in _ALLOWED else (
      package if package in _ALLOWED else "script")
  for imported in _imports(_TREES[name]):
    root = imported.split(".")[0]
    if imported in _TREES or root in _PACKAGES:
      assert _is_within(imported, _ALLOWED[kind]), imported
    elif root in ("tensorflow", "horovod"):
      owners = _TENSORFLOW if root == "tensorflow" else _HOROVOD
      assert _is_within(name, owners), imported


def test_imports_have_no_cycle():
  done, open_names = set(), []

  def visit(name):
    assert name not in open_names, open_names + [name]
    if name not in done:
      open_names.append(name)
      for imported in _imports(_TREES[name]) & set(_TREES):
        visit(imported)
      done.add(open_names.pop())

  for name in _TREES:
    visit(name)


@pytest.mark.parametrize("name", _TREES)
def test_only_main_reads_the_flags(name):
  if name == "util.command_line":
    return  # This module parses the flags.
  for function in ast.walk(_TREES[name]):
    if isinstance(function, ast.FunctionDef) and function.name != "main":
      for node in ast.walk(function):
        assert not (isinstance(node, (ast.Name, ast.Attribute))
                    and getattr(node, "id", getattr(node, "attr", ""))
                    == "FLAGS"), function.name


def test_packages_have_empty_init_files():
  for package in ("records", "distillation", "util"):
    assert (tiny.ROOT / package / "__init__.py").read_bytes() == b""


@pytest.fixture(name="without_tensorflow")
def _without_tensorflow(tmp_path):
  """An environment in which importing TensorFlow fails."""
  (tmp_path / "packages").mkdir()
  (tmp_path / "packages" / "tensorflow.py").write_text(
      "raise ImportError('TensorFlow was imported')\n")
  return dict(os.environ, PYTHONPATH=str(tmp_path / "packages"))


@pytest.mark.parametrize("script", [
    "split_text.py", "extract_wikipedia_for_bert/extract_wikipedia.py",
    "extract_wikipedia_for_bert/extract_jsons.py"])
def test_text_scripts_do_not_import_tensorflow(script, without_tensorflow):
  result = subprocess.run(
      [sys.executable, script, "--help"], cwd=tiny.ROOT,
      env=without_tensorflow, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
