"""Faults inside a process, which `sitecustomize.py` installs at start-up.

A point of a run is before or after a call that commits files. Environment
variables choose the faults:
  FAULT_LOG: a file with one line per point, of all processes of the run.
  FAULT_POINT: the number of the point, from 1, at which FAULT_ACTION happens.
  FAULT_ACTION: "kill" kills the process with SIGKILL, "kill_all" its process
    group, "stop" stops the process until SIGCONT.
  FAULT_SNAPSHOTS: a folder that gets a copy of FAULT_OUTPUT at each point: the
    files that a SIGKILL there would leave.
  FAULT_CLOCK: "back" sets the clock back by an hour each time it is read.
"""

import functools
import importlib
import os
import shutil
import signal
import sys
import time

_CALLS = ("fsync", "remove", "rename", "replace", "rmdir", "unlink")
# Functions of TensorFlow that call C++ code.
_TENSORFLOW_CALLS = ("delete_file_v2", "rename_v2", "write_string_to_file")
_LINE_BYTES = 160
_HOUR = 3600


def install():
  """Installs the faults that the environment chooses."""
  if os.environ.get("FAULT_LOG"):
    wrap(os, _CALLS)
    if "tensorflow" in sys.modules:
      file_io = importlib.import_module("tensorflow.python.lib.io.file_io")
      wrap(file_io, _TENSORFLOW_CALLS)
      saver = importlib.import_module("tensorflow.python.training.saver")
      wrap(saver.Saver, ("save",))
  if os.environ.get("FAULT_CLOCK"):
    _set_clock_back()


def wrap(owner, names):
  """Adds points before and after functions of a module or class."""
  for name in names:
    setattr(owner, name, _with_points(getattr(owner, name), name))


def _with_points(function, name):
  @functools.wraps(function)
  def call(*arguments, **keywords):
    _reach("before {} {}".format(name, arguments))
    result = function(*arguments, **keywords)
    _reach("after {} {}".format(name, arguments))
    return result
  return call


def _reach(description):
  """Logs a point; takes its snapshot and its action."""
  line = description.encode("utf-8", "replace")[:_LINE_BYTES - 1]
  file = os.open(os.environ["FAULT_LOG"],
                 os.O_WRONLY | os.O_APPEND | os.O_CREAT)
  os.write(file, line.replace(b"\n", b" ").ljust(_LINE_BYTES - 1) + b"\n")
  number = os.lseek(file, 0, os.SEEK_CUR) // _LINE_BYTES
  os.close(file)
  snapshots = os.environ.get("FAULT_SNAPSHOTS")
  if snapshots and os.path.isdir(os.environ["FAULT_OUTPUT"]):
    _copy(os.environ["FAULT_OUTPUT"], os.path.join(
        snapshots, "{:04d}".format(number)))
  if number == int(os.environ.get("FAULT_POINT", 0)):
    _ACTIONS[os.environ["FAULT_ACTION"]]()


def _copy(folder, copy):
  """Copies a folder without any of the wrapped calls."""
  shutil.copytree(folder, copy, symlinks=True, dirs_exist_ok=True)


def _kill():
  os.kill(os.getpid(), signal.SIGKILL)


def _kill_all():
  os.killpg(0, signal.SIGKILL)


def _stop():
  with open(os.environ["FAULT_LOG"] + ".stopped", "w") as file:
    file.write("{}\n".format(os.getpid()))
  os.kill(os.getpid(), signal.SIGSTOP)


_ACTIONS = {"kill": _kill, "kill_all": _kill_all, "stop": _stop}


def _set_clock_back():
  now = time.time
  looks = iter(range(1, 1 << 30))
  time.time = lambda: now() - _HOUR * next(looks)
