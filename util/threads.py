"""Pipelines: threads that work ahead of the one that takes their results."""

import collections
import contextlib
from concurrent import futures
from typing import Any, Deque, Generator, TypeVar

T = TypeVar("T")

_END: Any = object()


def ahead(items: Generator[T, None, None], depth: int = 1
         ) -> Generator[T, None, None]:
  """Draws items in a thread of its own, ahead of their use.

  One generator that draws from another one's items makes a pipeline with a
  thread for each. Close the last one to end all: each thread finishes the item
  that it draws.

  Args:
    items: closed at the end.
    depth: how many items are drawn at most while one is used.

  Yields:
    The items, in order.

  Raises:
    Exception: what `items` raises, after the items before the exception.
  """
  with contextlib.closing(items), futures.ThreadPoolExecutor(1) as thread:
    drawn: Deque["futures.Future[T]"] = collections.deque()
    try:
      while True:
        while len(drawn) < depth:
          drawn.append(thread.submit(next, items, _END))
        item = drawn.popleft().result()
        if item is _END:
          return
        drawn.append(thread.submit(next, items, _END))
        yield item
        del item  # Memory that the next one may need.
    finally:
      for future in drawn:
        future.cancel()
