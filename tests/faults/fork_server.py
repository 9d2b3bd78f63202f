"""Runs scripts in forked processes, so that TensorFlow is imported once.

  python fork_server.py SOCKET

Each connection brings a request as a line of JSON: the script, its arguments,
its folder, its environment, files for stdout and stderr, resource limits. The
answers are a line with the process's id and, when it has ended, one with its
return code as subprocess has it.
"""

import importlib
import json
import os
import resource
import runpy
import signal
import socket
import sys
import traceback

_MODULES = (
    "tensorflow", "distillation.training", "distillation.options",
    "distillation.teacher", "tokenization")
# How often to look whether the parent is still there.
_PARENT_SECONDS = 5
_POINTS = ("delete_file_v2", "rename_v2", "write_string_to_file")


def serve(path):
  """Answers requests until this process is ended."""
  for name in _MODULES:
    importlib.import_module(name)
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  tf.compat.v1.estimator.tpu.TPUEstimator  # Loaded when it is first used.
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path)
    listener.listen()
    listener.settimeout(_PARENT_SECONDS)
    parent = os.getppid()
    while os.getppid() == parent:  # It may be killed.
      try:
        connection, _ = listener.accept()
      except socket.timeout:
        continue
      connection.setblocking(True)
      if os.fork() == 0:
        listener.close()
        _answer(connection)
        os._exit(0)
      connection.close()
      try:
        while os.waitpid(-1, os.WNOHANG)[0]:
          pass
      except ChildProcessError:
        pass


def _answer(connection):
  """Runs one script."""
  with connection, connection.makefile("rw") as stream:
    request = json.loads(stream.readline())
    process_id = os.fork()
    if process_id == 0:
      _become(request)
    stream.write("{}\n".format(process_id))
    stream.flush()
    _, status = os.waitpid(process_id, 0)
    stream.write("{}\n".format(os.waitstatus_to_exitcode(status)))


def _become(request):
  """Turns this process into the script; does not return."""
  code = 1
  try:
    os.setsid()
    os.chdir(request["cwd"])
    for number, name, flags in ((0, os.devnull, os.O_RDONLY),
                                (1, request["stdout"], os.O_WRONLY),
                                (2, request["stderr"], os.O_WRONLY)):
      os.dup2(os.open(name, flags), number)
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["file_bytes"]:
      resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    _inject()
    sys.argv = [request["script"], *request["arguments"]]
    sys.path[0] = os.path.dirname(request["script"])
    runpy.run_path(request["script"], run_name="__main__")
    code = 0
  except SystemExit as end:
    code = end.code or 0
  except BaseException:  # pylint: disable=broad-except
    traceback.print_exc()
  finally:
    for stream in (sys.stdout, sys.stderr):
      stream.flush()
    os._exit(code)


def _inject():
  """Does what sitecustomize does in a process of its own."""
  if not any(name.startswith("FAULT_") for name in os.environ):
    return
  sys.path.insert(0, os.environ["PYTHONPATH"])
  sys.modules.pop("sitecustomize", None)
  sitecustomize = importlib.import_module("sitecustomize")
  sys.path.pop(0)
  if os.environ.get("FAULT_LOG"):
    # What TensorFlow does to files by itself, in C++.
    file_io = importlib.import_module("tensorflow.python.lib.io.file_io")
    sitecustomize.wrap(file_io, _POINTS)
    saver = importlib.import_module("tensorflow.python.training.saver")
    sitecustomize.wrap(saver.Saver, ("save",))


if __name__ == "__main__":
  sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(
      os.path.abspath(__file__)))))
  serve(sys.argv[1])
