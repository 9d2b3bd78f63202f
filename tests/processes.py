"""Functions that start subprocesses of tests and wait for conditions."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

_POLL_SECONDS = 0.01


def start(command, **keywords):
  """Starts a subprocess that SIGINT and SIGTERM end.

  If pytest is a background job of a shell, children inherit an ignored SIGINT.

  Args:
    command: the program and its arguments.
    **keywords: arguments of subprocess.Popen.

  Returns:
    The subprocess.Popen.
  """
  return subprocess.Popen(
      list(map(str, command)), preexec_fn=_reset_signals, **keywords)


class Script(subprocess.Popen):
  """A running Python script, possibly in a fork of the fork server.

  Attributes:
    script_pid: id of the process that runs the script and receives signals.
  """

  def __init__(self, script, *arguments, prefix=(), **keywords):
    """Starts a script that SIGINT and SIGTERM end.

    Args:
      script: path of the script.
      *arguments: arguments of the script.
      prefix: words of the command line before Python.
      **keywords: arguments of subprocess.Popen.
    """
    reader, writer = os.pipe()
    environment = dict(keywords.pop("env", None) or os.environ,
                       SCRIPT_PID_FD=str(writer))
    super().__init__(
        [*prefix, sys.executable, *map(str, (script, *arguments))],
        env=environment, pass_fds=[writer], preexec_fn=_reset_signals,
        **keywords)
    os.close(writer)
    with open(reader, encoding="ascii") as file:
      self.script_pid = int(file.readline() or self.pid)

  def send_signal(self, sig):
    if self.poll() is None:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self.script_pid, sig)


def _reset_signals():
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
  signal.pthread_sigmask(
      signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def wait_until(condition, process=None, timeout=60):
  """Polls until a condition holds; returns its value.

  Args:
    condition: a function without arguments.
    process: a subprocess that must not end before the condition holds.
    timeout: seconds after which to fail.
  """
  deadline = time.monotonic() + timeout
  while True:
    exit_code = process.poll() if process else None
    value = condition()  # After poll(): the process may meet it and end.
    if value:
      return value
    assert exit_code is None, "the process ended with exit code {}".format(
        exit_code)
    assert time.monotonic() < deadline, "not so after {} seconds".format(
        timeout)
    time.sleep(_POLL_SECONDS)


def is_running(process_id):
  """Returns whether a process runs and is not a zombie."""
  return state(process_id) not in (None, "Z", "X")


def state(process_id):
  """Returns the state of a process, such as "S" (sleeping); None if it ended.

  Skips the test if there is no /proc, as outside Linux.
  """
  if not os.path.exists("/proc/self/stat"):
    pytest.skip("needs /proc to see what processes do")
  try:
    stat = pathlib.Path("/proc/{}/stat".format(process_id)).read_text()
  except (FileNotFoundError, ProcessLookupError):
    return None
  return stat.rpartition(")")[2].split()[0]


def workers(process_id):
  """Returns the ids of the children of a process that util.workers started.

  Skips the test if there is no /proc, as outside Linux.
  """
  path = pathlib.Path("/proc/{0}/task/{0}/children".format(process_id))
  if not path.exists():
    pytest.skip("needs /proc to find the workers")
  return [
      child for child in map(int, path.read_text().split())
      if b"spawn_main" in pathlib.Path(
          "/proc/{}/cmdline".format(child)).read_bytes()]
