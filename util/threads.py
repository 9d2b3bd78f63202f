"""Pipelines: threads that work ahead of the one that takes their results."""

import collections
from concurrent import futures
from typing import Any, Deque, Generator, TypeVar

T = TypeVar("T")

_END: Any = object()


def ahead(items: Generator[T, None, None], depth: int = 1
         ) -> Generator[T, None, None]:
  """Draws items in a thread of its own, ahead of their use.

  Generators that draw from each other, each of them ahead, make a pipeline.
  Close the last one to end all: each thread finishes the item that it draws.

  Args:
    items: closed at the end, in the thread that draws from them.
    depth: how many items are drawn at most while one is used.

  Yields:
    The items, in order.

  Raises:
    Exception: what `items` raises, after the items before the exception.
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
        del item  # Memory that the next one may need.
    finally:
      for future in drawn:
        future.cancel()
      # Elsewhere it could still be drawing, after a second interrupt.
      thread.submit(items.close)
