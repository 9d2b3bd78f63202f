"""Tests of the fork server, which starts the scripts of tests."""

import os
import signal
import subprocess
import sys

import pytest

import processes

pytestmark = pytest.mark.skipif(
    not hasattr(sys, "orig_argv"), reason="needs Python 3.10 to be forked")

# The comment selects the fork server that has imported TensorFlow.
_SCRIPT = """
import sys  # network_distillation_
print("tensorflow" in sys.modules)
"""
_PLAIN_SCRIPT = """
import sys
print("tensorflow" in sys.modules, "numpy" in sys.modules)
"""


@pytest.mark.parametrize("variables, is_forked", [
    ({}, True), ({"TF_ANYTHING": "1"}, False), ({"FORK_SERVERS": ""}, False)])
def test_forked_scripts_have_imported_tensorflow(
    tmp_path, variables, is_forked):
  path = tmp_path / "script.py"
  path.write_text(_SCRIPT)
  result = subprocess.run(
      [sys.executable, path], env=dict(os.environ, **variables), check=True,
      stdout=subprocess.PIPE, text=True)
  assert result.stdout == "{}\n".format(is_forked)


def test_forked_plain_scripts_have_imported_only_numpy(tmp_path):
  path = tmp_path / "script.py"
  path.write_text(_PLAIN_SCRIPT)
  result = subprocess.run([sys.executable, path], check=True,
                          stdout=subprocess.PIPE, text=True)
  assert result.stdout == "False True\n"


def test_a_killed_script_has_the_exit_code_of_sigkill(tmp_path):
  path = tmp_path / "script.py"
  path.write_text(_SCRIPT + "sys.stdout.flush()\nsys.stdin.read()\n")
  with processes.Script(path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        text=True) as script:
    assert script.stdout.readline() == "True\n"
    script.kill()
    assert script.wait() == -signal.SIGKILL
  assert not processes.is_running(script.script_pid)
