"""Runs tasks in worker processes; finds the available cores and memory.

`run` serves two kinds of work: long tasks that report their progress, with
results in any order, and a stream of small tasks, with results in its order.
The pools of the standard library serve neither. `multiprocessing.Pool` reads
the whole stream at once and hangs when a worker is killed.
`ProcessPoolExecutor` before Python 3.11 hangs when a worker is killed while the
queue is full.

Workers are spawned, not forked, so the parent may have threads. Each worker
has a thread that receives tasks while the main thread works. Therefore the
parent never waits for a busy worker, parent and worker cannot block each other,
and a worker ends as soon as its parent ends.
"""

import collections
import contextlib
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pickle
import queue
import re
import signal
import threading
import traceback
from typing import (Any, Callable, Deque, Dict, Generator, Iterable, List,
                    NamedTuple, NoReturn, Optional, Tuple)

from util.command_line import InputError

Report = Callable[[Any], None]

# The kinds of messages that a worker sends.
_REPORT, _RESULT, _ERROR = range(3)
# Tasks that a worker holds with results in order: the current and the next one.
_TASKS_HELD = 2
# Tasks per worker drawn ahead of the results taken. With results in order, no
# worker waits while a slow task delays the next result.
_LOOK_AHEAD = 4
# Signals that may reach the whole process group. The parent handles them and
# ends its workers.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_END = object()


# --- The parent --------------------------------------------------------------


def run(function: Callable[[Any, Report], Any], tasks: Iterable[Any],
        num_workers: int, on_report: Report = lambda report: None,
        in_order: bool = False, *, remedy: str
       ) -> Generator[Tuple[int, Any], None, None]:
  """Runs a function over tasks in worker processes.

  No worker outlives the iteration or the parent. Close the iterator to end the
  iteration early.

  Args:
    function: takes a task and a function that sends a report to the parent;
      returns a result. `function` must be importable by name. Tasks, reports
      and results are pickled.
    tasks: tasks, drawn one by one when a worker can take the next one.
    num_workers: largest number of processes. With 0, each task runs in this
      process when the iteration reaches its result.
    on_report: called in this process with each report.
    in_order: whether the results keep the order of the tasks. If so, a worker
      receives its next task early, and only a few tasks per worker are drawn
      ahead of the results taken.
    remedy: remedy for a killed worker or a lack of memory, for errors.

  Yields:
    The index of a task and its result.

  Raises:
    InputError, OSError: if `function` raises it.
    InputError: if a worker dies or a task runs out of memory.
    RuntimeError: if `function` raises any other exception in a worker; the
      message is the traceback.
  """
  if not num_workers:
    for index, task in enumerate(tasks):
      try:
        result = function(task, on_report)
      except MemoryError:
        raise _out_of_memory(remedy) from None
      yield index, result
    return
  pool = _Pool(function, tasks, num_workers, in_order, remedy)
  try:
    while True:
      pool.send_tasks()
      indexed_result = pool.take_result()
      if indexed_result:
        yield indexed_result
      elif pool.is_busy():
        pool.receive(on_report)
      else:
        return
  finally:
    pool.close()


class _Worker(NamedTuple):
  """A worker process, its pipe, and the indices of the tasks it holds."""
  process: multiprocessing.process.BaseProcess
  connection: multiprocessing.connection.Connection
  held: Deque[int]


class _Pool:
  """The workers of one run, their tasks, and the results not yet taken."""

  def __init__(self, function: Callable[[Any, Report], Any],
               tasks: Iterable[Any], num_workers: int, in_order: bool,
               remedy: str):
    self._function = function
    self._tasks = iter(tasks)
    self._num_workers = num_workers
    self._in_order = in_order
    self._remedy = remedy
    self._workers: List[_Worker] = []
    self._results: Dict[int, Any] = {}
    self._num_drawn = 0
    self._num_taken = 0

  def is_busy(self) -> bool:
    """Returns whether any worker holds a task."""
    return any(worker.held for worker in self._workers)

  def send_tasks(self) -> None:
    """Sends tasks until none is left or no worker can take another."""
    while self._can_take_task():
      task = next(self._tasks, _END)
      if task is _END:
        return
      worker = self._least_busy_worker()
      worker.held.append(self._num_drawn)
      self._num_drawn += 1
      try:
        worker.connection.send(task)
      except ConnectionError:
        self._raise_death(worker)

  def _can_take_task(self) -> bool:
    look_ahead = _LOOK_AHEAD * self._num_workers
    tasks_held = _TASKS_HELD if self._in_order else 1
    return self._num_drawn - self._num_taken < look_ahead and (
        len(self._workers) < self._num_workers
        or any(len(worker.held) < tasks_held for worker in self._workers))

  def _least_busy_worker(self) -> _Worker:
    """Returns the worker with the fewest tasks; starts one if all are busy."""
    if len(self._workers) < self._num_workers and all(
        worker.held for worker in self._workers):
      self._start_worker()
    return min(self._workers, key=lambda worker: len(worker.held))

  def _start_worker(self) -> None:
    context = multiprocessing.get_context("spawn")
    connection, far_end = context.Pipe()
    process = context.Process(
        target=_work, args=(far_end, self._function), daemon=True)
    # The worker inherits the signal mask. Starting the resource tracker resets
    # the mask, so the tracker must already run.
    multiprocessing.resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
      process.start()
      self._workers.append(_Worker(process, connection, collections.deque()))
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    far_end.close()  # So that the worker's death closes the pipe.

  def take_result(self) -> Optional[Tuple[int, Any]]:
    """Removes and returns the next result, or None if it has not arrived."""
    index = (self._num_taken if self._in_order
             else next(iter(self._results), None))
    if index not in self._results:
      return None
    self._num_taken += 1
    return index, self._results.pop(index)

  def receive(self, on_report: Report) -> None:
    """Waits for messages and handles one from each worker that sent any."""
    busy: Dict[Any, _Worker] = {
        worker.connection: worker for worker in self._workers if worker.held}
    for connection in multiprocessing.connection.wait(list(busy)):
      worker = busy[connection]
      try:
        message = worker.connection.recv_bytes()
      except (EOFError, OSError):  # OSError: killed in the middle of a message.
        self._raise_death(worker)
      kind, value = pickle.loads(message)
      if kind == _REPORT:
        on_report(value)
      elif kind == _RESULT:
        self._results[worker.held.popleft()] = value
      elif isinstance(value, MemoryError):
        raise _out_of_memory(self._remedy)
      else:
        raise value

  def _raise_death(self, worker: _Worker) -> NoReturn:
    worker.process.join()
    exit_code = worker.process.exitcode
    assert exit_code is not None
    if exit_code < 0:
      how = "was killed by signal {} ({})".format(
          -exit_code, signal.Signals(-exit_code).name)
    else:
      how = "ended with exit code {}".format(exit_code)
    raise InputError("a worker {}; {}".format(how, self._remedy)) from None

  def close(self) -> None:
    """Ends all workers."""
    for worker in self._workers:
      worker.process.kill()
    for worker in self._workers:
      worker.process.join()
      worker.connection.close()


def _out_of_memory(remedy: str) -> InputError:
  return InputError("a worker ran out of memory; " + remedy)


# --- The workers -------------------------------------------------------------


def _work(connection: multiprocessing.connection.Connection,
          function: Callable[[Any, Report], Any]) -> None:
  """Runs tasks until the parent ends this process."""
  # SIGINT stays blocked. SIGTERM must end this process even if the parent
  # ignores the signal: multiprocessing ends daemons at exit with SIGTERM.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
  tasks: "queue.SimpleQueue[bytes]" = queue.SimpleQueue()
  threading.Thread(
      target=_receive_tasks, args=(connection, tasks), daemon=True).start()

  def report(value: Any) -> None:
    connection.send((_REPORT, value))

  with contextlib.suppress(ConnectionError):  # The parent has ended.
    while True:
      task = tasks.get()
      try:
        connection.send((_RESULT, function(pickle.loads(task), report)))
        continue
      except (InputError, OSError, MemoryError) as raised:
        error: Exception = raised
      except Exception:  # A bug; pylint: disable=broad-except
        error = RuntimeError(traceback.format_exc())
      connection.send((_ERROR, error))


def _receive_tasks(connection: multiprocessing.connection.Connection,
                   tasks: "queue.SimpleQueue[bytes]") -> NoReturn:
  """Queues tasks, and ends this process when the parent has ended."""
  try:
    while True:
      tasks.put(connection.recv_bytes())
  finally:
    os._exit(1)  # pylint: disable=protected-access


# --- Cores and memory --------------------------------------------------------


def available_cores(root: str = "/") -> int:
  """Returns how many cores this process may use, at least 1.

  CPU affinity and a container's quota limit the number. A fraction of a core
  counts as one core.

  Args:
    root: folder that contains proc and sys.
  """
  if hasattr(os, "sched_getaffinity"):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  for folder in _control_groups("cpu", root):
    # "200000 100000" or "max 100000"; version 1 has a file for each number.
    quota, period = _read(folder, "cpu.max").split() or (
        _read(folder, "cpu.cfs_quota_us").strip(),
        _read(folder, "cpu.cfs_period_us").strip())
    if quota.isdecimal() and period.isdecimal():  # Not "max" or "-1".
      cores = min(cores, math.ceil(int(quota) / int(period)))
  return max(1, cores)


def available_memory(root: str = "/") -> Optional[int]:
  """Returns how many bytes new processes may use, or None if unknown.

  The number is the smaller of the system's available memory and the unused
  memory of the container. Reclaimable file cache does not count as used.

  Args:
    root: folder that contains proc and sys.
  """
  amounts = []
  kilobytes = _read_integer(root, "proc/meminfo", "MemAvailable:")
  if kilobytes is not None:
    amounts.append(kilobytes << 10)
  for folder in _control_groups("memory", root):
    for limit_file, used_file, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        # Version 1; the total includes the groups below.
        ("memory.limit_in_bytes", "memory.usage_in_bytes",
         "total_inactive_file")):
      limit = _read_integer(folder, limit_file)
      if limit is not None:
        used = _read_integer(folder, used_file) or 0
        reclaimable = _read_integer(folder, "memory.stat", cache) or 0
        amounts.append(max(0, limit - used + reclaimable))
  return min(amounts, default=None)


def is_in_memory(folder: str, root: str = "/") -> bool:
  """Returns whether the files of a folder are in memory, as on tmpfs.

  Args:
    folder: the folder, which need not exist.
    root: folder that contains proc.
  """
  while folder and not os.path.isdir(folder):
    folder = os.path.dirname(folder)
  device = os.stat(folder or ".").st_dev
  number = "{}:{}".format(os.major(device), os.minor(device))
  for line in _read(root, "proc/self/mountinfo").splitlines():
    mount, _, file_system = line.partition(" - ")
    if mount.split()[2:3] == [number]:
      return file_system.split()[:1] in (["tmpfs"], ["ramfs"])
  return False


def _control_groups(controller: str, root: str) -> List[str]:
  """Lists the folders of this process's control groups and their ancestors.

  Args:
    controller: name of the controller, such as "memory".
    root: folder that contains proc and sys.
  """
  # Version 2 has one tree, version 1 has a tree for each controller. A
  # container may see its own group at the top of the tree.
  paths = {"": "/", controller: "/"}
  for line in _read(root, "proc/self/cgroup").splitlines():
    _, controllers, path = line.split(":", 2)
    if not controllers:
      paths[""] = path
    elif controller in controllers.split(","):
      paths[controller] = path
  folders = []
  for tree, path in paths.items():
    folder = os.path.join(root, "sys/fs/cgroup", tree)
    folders.append(folder)
    for name in filter(None, path.split("/")):
      folder = os.path.join(folder, name)
      folders.append(folder)
  return folders


def _read_integer(folder: str, name: str, label: str = "") -> Optional[int]:
  """Returns the integer after a label in a file, or None without a match."""
  match = re.search(r"^{}\s*(\d+)\b".format(re.escape(label)),
                    _read(folder, name), re.MULTILINE)
  return int(match.group(1)) if match else None


def _read(folder: str, name: str) -> str:
  """Returns the text of a system file, or "" if it cannot be read."""
  try:
    with open(os.path.join(folder, name), encoding="utf-8",
              errors="surrogateescape") as file:
      return file.read()
  except OSError:
    return ""
