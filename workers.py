"""Worker processes: one task at a time each, reports while they run.

This room owns starting, feeding and stopping processes, and knows what room
the machine has for them. The processes are spawned, not forked, so it does not
matter what threads the parent has.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import re
import signal
import traceback
from typing import (Any, Callable, Iterator, NamedTuple, Optional, Sequence,
                    Tuple)

Report = Callable[[Any], None]


class _Message(NamedTuple):
  """What a worker sends: a report, or the end of a task."""
  report: Any = None
  result: Any = None
  error: Optional[Exception] = None
  is_last: bool = False


def run(function: Callable[[Any, Report], Any], tasks: Sequence[Any],
        num_workers: int, on_report: Report = lambda report: None
       ) -> Iterator[Tuple[int, Any]]:
  """Runs a function over tasks in worker processes.

  However the iteration ends, no worker is left behind.

  Args:
    function: takes a task and a function to report with, returns a result;
      importable by name, as are its arguments and results by pickle.
    tasks: started in this order.
    num_workers: processes to run side by side.
    on_report: called in this process with each report.

  Yields:
    The index of a task and its result, in the order in which they finish.

  Raises:
    ValueError, OSError: what the function raised.
    ValueError: a worker died.
  """
  waiting = collections.deque(enumerate(tasks))
  processes = {}
  running = {}

  def start_next_task(connection: multiprocessing.connection.Connection):
    running[connection], task = waiting.popleft()
    connection.send(task)

  try:
    for _ in range(min(num_workers, len(tasks))):
      connection, process = _start(function)
      processes[connection] = process
      start_next_task(connection)
    while running:
      for connection in multiprocessing.connection.wait(list(running)):
        try:
          message = connection.recv()
          if message.error:
            raise message.error
          if not message.is_last:
            on_report(message.report)
            continue
          index = running.pop(connection)
          if waiting:
            start_next_task(connection)
        except (EOFError, ConnectionError):
          processes[connection].join()
          raise ValueError(_death(processes[connection].exitcode)) from None
        yield index, message.result
  finally:
    for process in processes.values():
      process.terminate()
    for process in processes.values():
      process.join()


def _start(function: Callable[[Any, Report], Any]):
  """Starts a worker; returns the connection to it and the process."""
  context = multiprocessing.get_context("spawn")
  connection, far_end = context.Pipe()
  process = context.Process(target=_work, args=(far_end, function), daemon=True)
  # Ctrl-C reaches the whole process group, but the parent alone decides what
  # comes of it. Workers inherit the mask. The tracker comes first, since
  # starting it lifts the mask.
  multiprocessing.resource_tracker.ensure_running()
  mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    process.start()
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
  far_end.close()  # So that a worker's death closes the pipe.
  return connection, process


def _work(connection: multiprocessing.connection.Connection,
          function: Callable[[Any, Report], Any]) -> None:
  """Does tasks until the parent ends this process."""
  def report(value: Any) -> None:
    connection.send(_Message(report=value))

  try:
    while True:
      task = connection.recv()
      try:
        message = _Message(result=function(task, report), is_last=True)
      except MemoryError:
        message = _Message(error=ValueError(
            "a worker ran out of memory: lower --num_workers, or split the "
            "text with a larger --split_number"))
      except (ValueError, OSError) as error:
        message = _Message(error=error)
      except Exception:  # A bug: the parent shows where it was.
        message = _Message(error=RuntimeError(traceback.format_exc()))
      connection.send(message)
  except (EOFError, ConnectionError):
    pass  # The parent was killed, and could not stop this process.


def _death(exit_code: int) -> str:
  """Says how a worker ended that should not have."""
  if exit_code < 0:
    how = "was killed by signal {} ({})".format(
        -exit_code, signal.Signals(-exit_code).name)
  else:
    how = "ended with exit code {}".format(exit_code)
  return ("a worker {}; where memory is short, lower --num_workers. Finished "
          "files are kept: the same command goes on from here".format(how))


def available_memory() -> Optional[int]:
  """Returns how many bytes new processes may use, or None if nothing tells."""
  amounts = []
  for path, pattern in (
      ("/proc/meminfo", r"MemAvailable:\s*(\d+) kB"),
      # Limits of a container, of either generation of control groups.
      ("/sys/fs/cgroup/memory.max", r"(\d+)"),
      ("/sys/fs/cgroup/memory/memory.limit_in_bytes", r"(\d+)")):
    with contextlib.suppress(OSError):
      with open(path, encoding="ascii") as file:
        amount = re.search(pattern, file.read())
      if amount:
        unit = 1024 if amount.group().endswith("kB") else 1
        amounts.append(int(amount.group(1)) * unit)
  return min(amounts, default=None)
