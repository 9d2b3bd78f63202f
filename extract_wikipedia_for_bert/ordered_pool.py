"""Maps a function over a stream with several processes, in order.

The pools of the standard library do not do here: `multiprocessing.Pool` reads
its whole input ahead and waits for ever when a worker is killed, and so does
`ProcessPoolExecutor` before Python 3.11 when its queue is full. Here, each
worker has a pipe of its own, and a thread that waits at it.
"""

import collections
from concurrent import futures
import multiprocessing
from multiprocessing import connection
import os
import queue
import signal
import threading
from typing import Callable, Deque, Generic, Iterable, Iterator, List, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that are read ahead, by worker: enough for none of them to wait while
# a slow item holds up the order.
_AHEAD = 4
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class OrderedPool(Generic[Item, Result]):
  """Worker processes that apply one function to items.

  Use it in a `with` statement, which starts the workers and ends them. Enter it
  before anything that starts a thread: the workers may be forks of the process.
  """

  def __init__(self, function: Callable[[Item], Result], num_workers: int):
    """Prepares a pool.

    Args:
      function: what to do; with several workers it must be picklable.
      num_workers: number of processes; 1 does the work in this one.
    """
    self._function = function
    self._num_workers = num_workers
    self._processes: List[multiprocessing.Process] = []
    self._idle: "queue.SimpleQueue[connection.Connection]" = queue.SimpleQueue()

  def __enter__(self) -> "OrderedPool":
    if self._num_workers > 1:
      # Workers inherit the mask: no signal reaches one that is not set up.
      mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
      try:
        for _ in range(self._num_workers):
          self._start()
      finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return self

  def __exit__(self, *unused_exception) -> None:
    for worker in self._processes:
      worker.terminate()
    for worker in self._processes:
      worker.join()

  def _start(self) -> None:
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.Process(
        target=_work, args=(self._function, there), daemon=True)
    worker.start()
    # With this end open in the worker alone, its death closes the pipe.
    there.close()
    self._processes.append(worker)
    self._idle.put(here)

  def map(self, items: Iterable[Item]) -> Iterator[Result]:
    """Yields function(item) for each item, in the order of the items.

    Args:
      items: the items; at most a few for each worker are held at a time.

    Raises:
      OSError: a worker process died.
    """
    if not self._processes:
      yield from map(self._function, items)
      return
    waiting: Deque["futures.Future"] = collections.deque()
    threads = futures.ThreadPoolExecutor(self._num_workers)
    try:
      for item in items:
        waiting.append(threads.submit(self._apply, item))
        while len(waiting) > _AHEAD * self._num_workers or (
            waiting and waiting[0].done()):
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()
      threads.shutdown()

  def _apply(self, item: Item) -> Result:
    """Has a worker do an item; runs in a thread."""
    pipe = self._idle.get()
    try:
      pipe.send(item)
      is_result, value = pipe.recv()
    except (EOFError, OSError):
      raise OSError(
          "a worker process died, killed or out of memory; run again, with "
          "fewer --num_workers (now {})".format(self._num_workers))
    finally:
      self._idle.put(pipe)
    if not is_result:
      raise value
    return value


def _work(function: Callable[[Item], Result],
          pipe: connection.Connection) -> None:
  """Does the items that come through a pipe; runs in a worker."""
  # Ctrl-C is for the parent, which then ends the workers.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  while True:
    item = pipe.recv()
    try:
      answer = True, function(item)
    except MemoryError:
      os._exit(1)  # The parent takes it for what it is.
    except Exception as error:  # pylint: disable=broad-except
      answer = False, error  # The parent raises it.
    pipe.send(answer)


def _end_with_parent() -> None:
  """Ends this worker when its parent is killed, rather than wait for ever."""
  multiprocessing.parent_process().join()
  os._exit(1)
