"""Runs scripts in forked processes, so that packages are imported once.

  python fork_server.py LISTENER KIND

LISTENER is the file descriptor of a listening socket. KIND is "tensorflow" for
scripts that import TensorFlow, "plain" for others. `fork_client.py` connects
to the socket and sends its standard streams, a line with the length of a JSON
object, and the object. The server answers a line with the id of the process
that runs the script, or 0 if the server cannot run the script, and at the end
of the script a line with the return code, in the convention of `subprocess`.

The server imports the packages at the first request, and ends when its standard
input is closed.
"""

import atexit
import contextlib
import gc
import importlib
import json
import logging
import os
import random
import resource
import select
import signal
import socket
import sys
import threading
import types

import fork_client

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
_MODULES = {
    "tensorflow": (
        "tensorflow", "horovod.tensorflow", "distillation.training",
        "distillation.evaluation", "distillation.options",
        "distillation.teacher", "records.decoding", "tokenization"),
    "plain": (
        "absl.app", "absl.flags", "absl.logging", "google_crc32c", "numpy",
        "tqdm", "multiprocessing.connection", "multiprocessing.spawn",
        "mwparserfromhell", "sentencex", "records.compact",
        "records.record_writer", "records.sampling", "tokenization",
        "util.command_line", "util.files",
        "util.workers")}


def serve(listener, kind):
  """Answers requests until standard input is closed.

  Args:
    listener: the socket.
    kind: a key of `_MODULES`.

  Returns:
    None in the server; the request to run, in a fork.
  """
  own = fork_client.surroundings()
  has_modules = False
  while True:
    ready, _, _ = select.select([listener, 0], [], [])
    if 0 in ready:
      return None
    connection, _ = listener.accept()
    if not has_modules:
      _import_modules(kind)
      has_modules = True
    # Ended children do not become zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork() == 0:
      signal.signal(signal.SIGCHLD, signal.SIG_DFL)
      listener.close()
      return _answer(connection, own)
    connection.close()


def _import_modules(kind):
  """Imports the packages of the scripts, with the settings of the scripts."""
  sys.path.insert(0, _ROOT)
  if kind == "tensorflow":
    os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")
  for name in _MODULES[kind]:
    importlib.import_module(name)
  if kind == "tensorflow":
    import tensorflow as tf
    logging.getLogger("tensorflow").setLevel(logging.CRITICAL)
    estimator = tf.compat.v1.estimator  # Loads its modules at first use.
    for name in ("RunConfig", "TPUConfig", "TPUEstimator", "TPUEstimatorSpec"):
      getattr(estimator.tpu, name)
  sys.path.remove(_ROOT)
  gc.collect()
  gc.freeze()  # A collection would copy these objects in each fork.


def _answer(connection, own):
  """Forks the process that runs the script, and sends the answers.

  Returns:
    The request, in the process that runs the script. The process that sends the
    answers does not return.
  """
  length, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
  with connection, connection.makefile("rb") as stream:
    request = json.loads(stream.read(int(length + stream.readline())))
    if request["surroundings"] != own:
      connection.sendall(b"0\n")
      os._exit(0)
    process_id = os.fork()
    if process_id == 0:
      request["descriptors"] = descriptors
      return request
    for descriptor in descriptors:
      os.close(descriptor)
    connection.sendall(b"%d\n" % process_id)
    end = os.pidfd_open(process_id)
    ready, _, _ = select.select([connection, end], [], [])
    if end not in ready:  # The client was killed.
      os.kill(process_id, signal.SIGKILL)
    _, status = os.waitpid(process_id, 0)
    with contextlib.suppress(BrokenPipeError):
      connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
  os._exit(0)


def become(request):
  """Makes this process like a new process that starts the script."""
  os.setsid()
  os.chdir(request["cwd"])
  for number, descriptor in enumerate(request["descriptors"]):
    os.dup2(descriptor, number)
    os.close(descriptor)
  # Python does so at start-up; under MPI, stdout is a terminal.
  sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
  signal.signal(signal.SIGINT, signal.default_int_handler)
  for number in request["ignored"]:
    signal.signal(number, signal.SIG_IGN)
  os.umask(request["umask"])
  os.environ.clear()
  os.environ.update(request["environment"])
  for limit, values in zip(fork_client.LIMITS, request["limits"]):
    resource.setrlimit(limit, tuple(values))
  random.seed()
  sys.argv = request["arguments"]
  sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))


def _run():
  """Runs the script and ends this process as Python does, but frees no objects.

  Freeing objects would copy the memory that is shared with the server.
  """
  code = 0
  try:
    module = types.ModuleType("__main__")
    module.__file__ = sys.argv[0]
    # Child processes of the script pickle objects under the name __mp_main__.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    with open(sys.argv[0], "rb") as file:
      script = compile(file.read(), sys.argv[0], "exec")
    exec(script, vars(module))  # pylint: disable=exec-used
  except SystemExit as end:
    code = end.code
    if code is not None and not isinstance(code, int):
      sys.stderr.write("{}\n".format(code))
      code = 1
  except BaseException as error:  # pylint: disable=broad-except
    sys.excepthook(*sys.exc_info())
    code = 1
    if isinstance(error, KeyboardInterrupt):
      signal.signal(signal.SIGINT, signal.SIG_DFL)
      os.kill(os.getpid(), signal.SIGINT)
  threading._shutdown()  # pylint: disable=protected-access
  atexit._run_exitfuncs()  # pylint: disable=protected-access
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code or 0)


if __name__ == "__main__":
  asked = serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
  if asked:
    become(asked)
    if any(variable.startswith("FAULT_") for variable in os.environ):
      importlib.import_module("faults").install()
    _run()
