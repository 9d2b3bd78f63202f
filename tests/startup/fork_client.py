"""Lets a fork of a fork server do the work of this process.

This process forwards SIGINT and SIGTERM to the fork and ends as the fork ends.
If this process is killed, the server kills the fork.
"""

import contextlib
import json
import os
import resource
import signal
import socket

# Prefixes of variables that TensorFlow or Python read at start-up.
_READ_AT_START = ("CUDA", "HOME", "LANG", "LC_", "MKL_", "OMP_", "OPENBLAS",
                  "PYTHON", "TF_", "TMPDIR", "XLA_")
_NAMESPACES = ("ipc", "mnt", "net", "pid", "user", "uts")
_STATUS = ("Uid:", "Gid:", "CapEff:", "CapBnd:", "NoNewPrivs:")
LIMITS = [getattr(resource, name) for name in dir(resource)
          if name.startswith("RLIMIT_")]
FORWARDED = (signal.SIGINT, signal.SIGTERM)

_stream = None


def surroundings():
  """Returns the properties of this process that a fork cannot copy.

  The server forks only for processes whose surroundings equal its own.
  """
  with open("/proc/self/status", encoding="ascii", errors="replace") as file:
    status = [line for line in file if line.startswith(_STATUS)]
  return [
      {name: value for name, value in sorted(os.environ.items())
       if name.startswith(_READ_AT_START)},
      [os.readlink("/proc/self/ns/" + name) for name in _NAMESPACES],
      status]


def start(kind, arguments):
  """Asks the server to run a script with this process's files and environment.

  Args:
    kind: kind of the server, the name of its socket.
    arguments: the script and its arguments.

  Returns:
    The id of the process that runs the script; None if this process must run
    the script.
  """
  global _stream
  try:
    for number in range(3):
      os.fstat(number)
    request = json.dumps({
        "arguments": arguments, "cwd": os.getcwd(),
        "environment": dict(os.environ), "surroundings": surroundings(),
        "limits": list(map(resource.getrlimit, LIMITS)),
        "ignored": [number for number in FORWARDED
                    if signal.getsignal(number) == signal.SIG_IGN],
        "umask": _umask()})
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.path.join(os.environ["FORK_SERVERS"], kind))
  except OSError:
    return None  # A closed stream, or no server.
  socket.send_fds(server, [b"%d\n" % len(request)], range(3))
  server.sendall(request.encode("ascii"))
  _stream = server.makefile("r")
  return int(_stream.readline() or 0) or None


def _umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask


def end_like(process_id):
  """Waits for the script and ends this process as the script ended.

  Args:
    process_id: id of the script's process.
  """
  def forward(number, unused_frame):
    with contextlib.suppress(ProcessLookupError):
      os.kill(process_id, number)

  for number in FORWARDED:
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, forward)
  code = int(_stream.readline() or -signal.SIGKILL)
  if code < 0:
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
      signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
  os._exit(code)
