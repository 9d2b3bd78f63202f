"""Maps a function over a stream with several processes, in order.

`multiprocessing.Pool.imap` reads its whole input ahead, and waits for ever
when a worker is killed. This does neither.
"""

import collections
from concurrent import futures
from concurrent.futures import process
import multiprocessing
import os
import signal
import threading
from typing import Callable, Deque, Iterable, Iterator, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Batches that are read ahead, by worker: enough for none of them to wait while
# a slow batch holds up the order.
_AHEAD = 4


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item],
                num_workers: int) -> Iterator[Result]:
  """Yields function(item) for each item, in the order of the items.

  Args:
    function: what to do; with several workers it must be picklable.
    items: the items; at most a few for each worker are held at a time.
    num_workers: number of processes; 1 does the work in this one.

  Yields:
    The results.

  Raises:
    OSError: a worker process died.
  """
  if num_workers == 1:
    yield from map(function, items)
    return
  waiting: Deque["futures.Future"] = collections.deque()
  executor = futures.ProcessPoolExecutor(num_workers, initializer=_start_worker)
  try:
    for item in items:
      waiting.append(executor.submit(function, item))
      while len(waiting) > _AHEAD * num_workers or (
          waiting and waiting[0].done()):
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  except process.BrokenProcessPool:
    raise OSError("a worker process died, killed or out of memory; run again, "
                  "with fewer --num_workers (now {})".format(num_workers))
  finally:
    for future in waiting:
      future.cancel()
    executor.shutdown()


def _start_worker() -> None:
  # Ctrl-C is for the parent, which then ends the workers.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  """Ends this worker when its parent is killed, rather than wait for ever."""
  multiprocessing.parent_process().join()
  os._exit(1)
