"""Tests of the worker processes."""

import os
import signal
import time

import pytest

import workers


def _square(task, report):
  report(-task)
  return task * task


def _process_id(unused_task, report):
  report(os.getpid())
  time.sleep(0.2)
  return os.getpid()


def _fail(task, report):
  if task == "sleep":
    report(os.getpid())
    time.sleep(600)
  raise task


def _kill_itself(task, unused_report):
  os.kill(os.getpid(), task)


def _is_alive(process_id):
  try:
    os.kill(process_id, 0)
  except ProcessLookupError:
    return False
  return True


@pytest.mark.parametrize("num_workers", [1, 2, 9])
def test_each_task_gives_its_result_and_reports(num_workers):
  reports = []
  results = dict(workers.run(_square, [1, 2, 3], num_workers, reports.append))
  assert results == {0: 1, 1: 4, 2: 9}
  assert sorted(reports) == [-3, -2, -1]


def test_no_task_needs_no_worker():
  assert list(workers.run(_square, [], 2)) == []


def test_tasks_run_side_by_side_in_other_processes():
  ids = dict(workers.run(_process_id, range(4), 2))
  assert len(set(ids.values())) == 2 and os.getpid() not in ids.values()
  assert not any(map(_is_alive, ids.values()))


@pytest.mark.parametrize("error", [
    ValueError("of the user"), FileNotFoundError(2, "No such file", "a.txt")])
def test_what_a_worker_raises_comes_through_and_stops_the_others(error):
  reports = []
  with pytest.raises(type(error)) as raised:
    list(workers.run(_fail, ["sleep", error], 2, reports.append))
  assert str(raised.value) == str(error)
  assert not any(map(_is_alive, reports))


def test_a_bug_shows_where_it_is():
  with pytest.raises(RuntimeError, match="in _fail"):
    list(workers.run(_fail, [KeyError("bug")], 1))


def test_too_little_memory_names_the_remedy():
  with pytest.raises(ValueError, match="lower --num_workers"):
    list(workers.run(_fail, [MemoryError()], 1))


def test_a_killed_worker_is_an_error():
  with pytest.raises(ValueError, match="signal 9 .SIGKILL"):
    list(workers.run(_kill_itself, [signal.SIGKILL], 1))


def test_leaving_early_stops_the_workers():
  reports = []
  results = workers.run(_process_id, range(100), 2, reports.append)
  next(results)
  results.close()
  assert reports and not any(map(_is_alive, reports))


def test_available_memory_is_a_plausible_amount():
  available = workers.available_memory()
  assert available is None or 1 << 20 < available < 1 << 50
