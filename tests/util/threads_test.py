"""Tests of drawing items ahead in threads."""

import threading

import pytest

from util import threads
from util.command_line import InputError


def _numbers(drawn, last, error=None, closed=None):
  """Yields 0 to last - 1 and adds each to `drawn`; then raises an error."""
  try:
    for number in range(last):
      drawn.append(number)
      yield number
    if error:
      raise error
  finally:
    if closed is not None:
      closed.append(threading.current_thread())


@pytest.mark.parametrize("depth", [1, 3, 20])
def test_items_keep_their_order(depth):
  inner = threads.ahead(_numbers([], 10), depth)
  squares = threads.ahead((number ** 2 for number in inner), depth)
  assert list(squares) == [number ** 2 for number in range(10)]


def test_exactly_depth_items_are_drawn_ahead():
  drawn = threading.Semaphore(0)
  numbers = []

  def count():
    for number in range(10):
      numbers.append(number)
      drawn.release()
      yield number

  items = threads.ahead(count(), depth=3)
  assert next(items) == 0
  for _ in range(4):  # The item in use and three more.
    assert drawn.acquire(timeout=60)
  items.close()
  assert numbers == [0, 1, 2, 3]


def test_a_thread_draws_while_an_item_is_in_use():
  is_drawn = threading.Event()

  def items():
    yield 0
    is_drawn.set()
    yield 1

  ahead = threads.ahead(items())
  assert next(ahead) == 0
  assert is_drawn.wait(60)
  assert list(ahead) == [1]


def test_an_error_follows_the_items_before_it():
  closed, found = [], []
  items = threads.ahead((number for number in threads.ahead(
      _numbers([], 3, InputError("damaged"), closed))), 5)
  with pytest.raises(InputError, match="damaged"):
    for number in items:
      found.append(number)
  assert found == [0, 1, 2]
  assert len(closed) == 1
  assert not list(items)


def test_closing_the_last_iterator_ends_all_threads():
  before, closed = threading.active_count(), []

  def doubled(items):
    try:
      for number in items:
        yield 2 * number
    finally:
      items.close()

  ends = threads.ahead(doubled(threads.ahead(
      _numbers([], 1000, closed=closed), 2)), 2)
  assert [next(ends) for _ in range(4)] == [0, 2, 4, 6]
  ends.close()
  # Each generator ends in the thread that draws its items.
  assert len(closed) == 1 and closed[0] is not threading.current_thread()
  assert threading.active_count() == before


def test_a_pipeline_that_never_began_can_be_closed():
  threads.ahead(_numbers([], 3)).close()
