"""Draws from generators in threads, ahead of their use, to form pipelines."""

import collections
from concurrent import futures
from typing import Any, Deque, Generator, TypeVar

T = TypeVar("T")

_END: Any = object()


def ahead(items: Generator[T, None, None], depth: int = 1
         ) -> Generator[T, None, None]:
  """Draws items in a separate thread, ahead of their use.

  Chain calls of `ahead` to form a pipeline. Closing the last generator ends all
  threads, after each has finished its current item.

  Args:
    items: generator to draw from; closed at the end, in the same thread.
    depth: most items to draw while the caller uses one.

  Yields:
    The items, in order.

  Raises:
    Exception: any exception of `items`, after the items before it.
  """
  with futures.ThreadPoolExecutor(1) as thread:
    drawn: Deque["futures.Future[T]"] = collections.deque(
        thread.submit(next, items, _END) for _ in range(depth))
    try:
      while True:
        item = drawn.popleft().result()
        if item is _END:
          return
        drawn.append(thread.submit(next, items, _END))
        yield item
        del item  # Frees the memory before the next item is returned.
    finally:
      for future in drawn:
        future.cancel()
      # In the thread, since `items` can still be running in it.
      thread.submit(items.close)
