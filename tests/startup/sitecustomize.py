"""Start-up code of each Python process of the tests: forking and faults.

Python imports this module first, because `tests/conftest.py` adds this folder
to PYTHONPATH. A script runs in a fork of a fork server, which has imported the
script's packages; other programs run in this process.

Environment variables:
  FORK_SERVERS: folder of the fork servers' sockets.
  SCRIPT_PID_FD: file descriptor that receives a line with the id of the process
    that runs the script.
  FAULT_...: see `faults.py`.
"""

import os
import re
import sys

# Imports of packages that import TensorFlow, and names of such scripts.
_USES_TENSORFLOW = re.compile(
    rb"^ *(from|import) (tensorflow|horovod|distillation|modeling)\b"
    rb"|network_distillation_|extract_teacher_labels_", re.MULTILINE)


def _kind(command):
  """Returns the kind of server for a command line; None if not a script."""
  if len(command) < 2 or not command[1].endswith(".py"):
    return None
  try:
    with open(command[1], "rb") as file:
      uses_tensorflow = _USES_TENSORFLOW.search(file.read())
  except OSError:
    return None  # Python itself reports the error.
  return "tensorflow" if uses_tensorflow else "plain"


def _start():
  process_id = None
  descriptor = os.environ.pop("SCRIPT_PID_FD", None)
  # Python 3.9 has no orig_argv, so each script runs in its own process.
  kind = _kind(getattr(sys, "orig_argv", ()))
  if kind and os.environ.get("FORK_SERVERS"):
    import fork_client
    process_id = fork_client.start(kind, sys.orig_argv[1:])
  if descriptor:
    os.write(int(descriptor), b"%d\n" % (process_id or os.getpid()))
    os.close(int(descriptor))
  if process_id:
    fork_client.end_like(process_id)
  if any(name.startswith("FAULT_") for name in os.environ):
    import faults
    faults.install()


_start()
