"""Tests of worker processes, and of finding the available cores and memory."""

import itertools
import os
import random
import signal
import sys

import pytest

import processes
from util import workers
from util.command_line import InputError

_REMEDY = "lower --num_workers"


def _run(function, tasks, num_workers, on_report=lambda report: None,
         in_order=False):
  return workers.run(function, tasks, num_workers, on_report, in_order,
                     remedy=_REMEDY)


def _square(task, report):
  report(-task)
  return task * task


def _process_id(unused_task, report):
  report(os.getpid())
  return os.getpid()


def _signal_handling(unused_task, unused_report):
  return (signal.pthread_sigmask(signal.SIG_BLOCK, ()),
          signal.getsignal(signal.SIGTERM))


def _fail(task, report):
  if task == "wait":
    report(os.getpid())
    _wait_for("no such file")
  raise task


def _end(exit_code, unused_report):
  os._exit(exit_code)  # pylint: disable=protected-access


def _kill_itself(task, unused_report):
  os.kill(os.getpid(), task)


def _sum_below(task, unused_report):
  return sum(range(task))


def _give_back(task, unused_report):
  return task


def _report_and_return_much(path, report):
  report(os.getpid())
  path.touch()
  return bytes(1 << 26)


def _wait_and_make(task, unused_report):
  """Waits for a file and makes another file; either may be None."""
  wait_for, make = task
  if wait_for:
    _wait_for(wait_for)
  if make:
    open(make, "w").close()


def _wait_for(path):
  processes.wait_until(lambda: os.path.exists(path))


def _exists(process_id):
  """Returns whether a process exists, running or as a zombie."""
  try:
    os.kill(process_id, 0)
  except ProcessLookupError:
    return False
  return True


# --- Results -----------------------------------------------------------------


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("num_workers", [0, 1, 2, 9])
def test_each_task_gives_its_result_and_reports(num_workers, in_order):
  reports = []
  results = list(_run(_square, iter([1, 2, 3]), num_workers, reports.append,
                      in_order))
  assert sorted(results) == [(0, 1), (1, 4), (2, 9)]
  assert sorted(reports) == [-3, -2, -1]
  if in_order:
    assert results == sorted(results)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_tasks_give_no_results(num_workers):
  assert list(_run(_square, [], num_workers)) == []


@pytest.mark.parametrize("in_order", [False, True])
def test_tasks_run_side_by_side_in_other_processes(in_order):
  ids = dict(_run(_process_id, range(4), 2, in_order=in_order))
  assert len(set(ids.values())) == 2 and os.getpid() not in ids.values()
  assert not any(map(_exists, ids.values()))


def test_no_more_workers_start_than_there_are_tasks():
  ids = dict(_run(_process_id, iter(range(2)), 50, in_order=True))
  assert len(set(ids.values())) == 2


def test_without_workers_a_task_runs_when_its_result_is_taken():
  drawn, reports = [], []
  results = _run(_process_id, map(drawn.append, range(3)), 0, reports.append)
  for number in range(3):
    assert next(results) == (number, os.getpid())
    assert len(drawn) == len(reports) == number + 1
  assert list(results) == []


def test_the_result_of_a_slow_task_comes_later(tmp_path):
  """The first task ends only after the result of the second."""
  tasks = [(tmp_path / "a", None), (None, None)]
  results = _run(_wait_and_make, tasks, 2)
  assert next(results)[0] == 1
  (tmp_path / "a").touch()
  assert [index for index, _ in results] == [0]


def test_in_order_a_slow_task_comes_first(tmp_path):
  tasks = [(tmp_path / "a", None), (None, tmp_path / "a")]
  results = _run(_wait_and_make, tasks, 2, in_order=True)
  assert [index for index, _ in results] == [0, 1]


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_results_keep_the_order_of_tasks_of_any_duration(num_workers):
  generator = random.Random(num_workers)
  tasks = [generator.choice((0, 0, 10, 1000, 200000)) for _ in range(200)]
  results = _run(_sum_below, iter(tasks), num_workers, in_order=True)
  assert list(results) == [
      (index, task * (task - 1) // 2) for index, task in enumerate(tasks)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_in_order_few_tasks_are_drawn_ahead(num_workers):
  drawn = []

  def tasks():
    for number in range(200):
      drawn.append(number)
      yield number

  results = _run(_give_back, tasks(), num_workers, in_order=True)
  for number in range(200):
    assert next(results) == (number, number)
    assert len(drawn) <= number + 4 * num_workers
  assert list(results) == []


def test_in_order_a_slow_task_limits_the_tasks_drawn(tmp_path):
  path = tmp_path / "go"
  drawn = []

  def tasks():
    drawn.append(0)
    yield path, None
    for number in itertools.count(1):
      drawn.append(number)
      if number == 7:
        path.touch()
      yield None, None

  results = _run(_wait_and_make, tasks(), 2, in_order=True)
  assert next(results)[0] == 0
  assert len(drawn) == 8
  results.close()


@pytest.mark.parametrize("in_order", [False, True])
def test_large_tasks_and_results_do_not_block_each_other(in_order):
  tasks = [bytes([number]) * (1 << 22) for number in range(12)]
  assert dict(_run(_give_back, tasks, 2, in_order=in_order)) == dict(
      enumerate(tasks))


# --- Errors and ends ---------------------------------------------------------


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("error", [
    InputError("of the user"), FileNotFoundError(2, "No such file", "a.txt")])
def test_an_error_of_a_worker_is_raised_and_stops_the_others(
    error, in_order):
  reports = []
  with pytest.raises(type(error)) as raised:
    list(_run(_fail, ["wait", error], 2, reports.append, in_order))
  assert str(raised.value) == str(error)
  assert not any(map(_exists, reports))


@pytest.mark.parametrize("bug", [KeyError("bug"), ValueError("bug")])
def test_a_bug_is_raised_with_its_traceback(bug):
  with pytest.raises(RuntimeError, match="in _fail"):
    list(_run(_fail, [bug], 1))
  with pytest.raises(type(bug)):
    list(_run(_fail, [bug], 0))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_little_memory_names_the_remedy(num_workers):
  with pytest.raises(InputError, match="out of memory; lower --num_workers"):
    list(_run(_fail, [MemoryError()], num_workers))


@pytest.mark.parametrize("in_order", [False, True])
def test_a_killed_worker_is_an_error(in_order):
  with pytest.raises(InputError,
                     match="signal 9 .SIGKILL.; lower --num_workers"):
    list(_run(_kill_itself, [signal.SIGKILL], 1, in_order=in_order))


def test_a_worker_that_ends_by_itself_is_an_error():
  with pytest.raises(InputError, match="exit code 3; lower --num_workers"):
    list(_run(_end, [3], 1))


def test_a_worker_that_is_killed_between_tasks_is_an_error():
  reports = []
  results = _run(_process_id, range(100), 2, reports.append)
  next(results)
  for process_id in set(reports):
    os.kill(process_id, signal.SIGKILL)
  with pytest.raises(InputError, match="SIGKILL"):
    list(results)
  assert not any(map(_exists, reports))


def test_a_worker_that_is_killed_while_it_sends_is_an_error(tmp_path):
  path = tmp_path / "almost_done"

  def kill(process_id):
    # The pipe is full while this process does not read it.
    _wait_for(path)
    processes.wait_until(lambda: processes.state(process_id) == "S")
    os.kill(process_id, signal.SIGKILL)

  with pytest.raises(InputError, match="SIGKILL"):
    list(_run(_report_and_return_much, [path], 1, kill))


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_the_task_iterator_is_raised(num_workers, in_order):
  reports = []

  def tasks():
    yield 0
    raise InputError("the stream is corrupt")

  with pytest.raises(InputError, match="the stream is corrupt"):
    list(_run(_process_id, tasks(), num_workers, reports.append, in_order))
  assert not any(map(_exists, set(reports) - {os.getpid()}))


@pytest.mark.parametrize("in_order", [False, True])
def test_closing_early_stops_the_workers(in_order):
  reports = []
  results = _run(_process_id, itertools.count(), 2, reports.append, in_order)
  next(results)
  results.close()
  assert reports and not any(map(_exists, reports))


def test_a_worker_blocks_ctrl_c_and_ends_on_sigterm():
  """The parent handles Ctrl-C, and may ignore SIGTERM."""
  handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
  try:
    (_, (mask, terminates)), = _run(_signal_handling, [0], 1)
  finally:
    signal.signal(signal.SIGTERM, handler)
  assert signal.SIGINT in mask and signal.SIGTERM not in mask
  assert terminates == signal.SIG_DFL
  assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


_PARENT = '''
import os, sys, time
sys.path[:0] = {path!r}
from util import workers

def work(task, report):
  report(os.getpid())
  while True:
    if task == "sleep":
      time.sleep(600)

if __name__ == "__main__":
  for _ in workers.run(work, ["sleep", "compute", "wait"], 2,
                       lambda report: print(report, flush=True), {in_order},
                       remedy="none"):
    pass
'''


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM,
                                    signal.SIGINT])
@pytest.mark.parametrize("in_order", [False, True])
def test_busy_workers_end_with_their_parent(tmp_path, in_order, number):
  script = tmp_path / "parent.py"
  script.write_text(_PARENT.format(path=sys.path, in_order=in_order))
  with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
    parent = processes.start([sys.executable, script], stdout=out, stderr=err)

  def reports():
    return (tmp_path / "out").read_text().splitlines()

  processes.wait_until(lambda: len(reports()) == 2, parent)
  parent.send_signal(number)
  assert parent.wait() == -number
  processes.wait_until(
      lambda: not any(map(processes.is_running, map(int, reports()))))


# --- Cores and memory --------------------------------------------------------


@pytest.fixture(name="system")
def _system(tmp_path, monkeypatch):
  """Returns a function that writes system files and returns their root."""
  monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)),
                      raising=False)

  def write(files):
    for name, text in files.items():
      path = tmp_path / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)
    return str(tmp_path)
  return write


_VERSION_2 = {"proc/self/cgroup": "0::/jobs/mine\n"}
_VERSION_1 = {"proc/self/cgroup": (
    "5:memory:/jobs/mine\n4:cpuset:/\n3:cpu,cpuacct:/jobs/mine\n"
    "1:name=systemd:/jobs/mine\n0::/unified\n")}


@pytest.mark.parametrize("files, expected", [
    ({}, 8),
    (dict(_VERSION_2), 8),
    (dict(_VERSION_2, **{"sys/fs/cgroup/jobs/mine/cpu.max": "max 100000\n"}),
     8),
    (dict(_VERSION_2, **{"sys/fs/cgroup/jobs/mine/cpu.max": "300000 100000\n"}),
     3),
    (dict(_VERSION_2, **{"sys/fs/cgroup/jobs/mine/cpu.max": "250000 100000\n"}),
     3),
    (dict(_VERSION_2, **{"sys/fs/cgroup/jobs/mine/cpu.max": "10000 100000\n"}),
     1),
    (dict(_VERSION_2, **{"sys/fs/cgroup/jobs/mine/cpu.max": "1600000 100000"}),
     8),
    # A group may use no more than its parent group.
    (dict(_VERSION_2, **{"sys/fs/cgroup/jobs/mine/cpu.max": "600000 100000\n",
                         "sys/fs/cgroup/jobs/cpu.max": "400000 100000\n"}), 4),
    (dict(_VERSION_2, **{"sys/fs/cgroup/other/cpu.max": "100000 100000\n"}), 8),
    # A container may see its own group as the root.
    ({"proc/self/cgroup": "0::/\n",
      "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    ({"proc/self/cgroup": "0::/docker/not/seen\n",
      "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    ({"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    (dict(_VERSION_1, **{
        "sys/fs/cgroup/cpu/jobs/mine/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/jobs/mine/cpu.cfs_period_us": "100000\n"}), 8),
    (dict(_VERSION_1, **{
        "sys/fs/cgroup/cpu/jobs/mine/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/jobs/mine/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us": "150000\n",
        "sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us": "100000\n"}), 2),
    (dict(_VERSION_1, **{
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "25000\n"}), 2),
])
def test_available_cores(system, files, expected):
  assert workers.available_cores(system(files)) == expected


def test_available_cores_without_affinity(system, monkeypatch):
  monkeypatch.delattr(os, "sched_getaffinity")
  monkeypatch.setattr(os, "cpu_count", lambda: 5)
  assert workers.available_cores(system({})) == 5
  monkeypatch.setattr(os, "cpu_count", lambda: None)
  assert workers.available_cores(system({})) == 1


_MEMINFO = {"proc/meminfo": "MemTotal:       9000 kB\nMemFree:        100 kB\n"
                            "MemAvailable:   8000 kB\nCached:        7000 kB\n"}
_UNLIMITED = "9223372036854771712\n"


@pytest.mark.parametrize("files, expected", [
    ({}, None),
    (_MEMINFO, 8000 * 1024),
    ({**_MEMINFO, **_VERSION_2, "sys/fs/cgroup/jobs/mine/memory.max": "max\n"},
     8000 * 1024),
    ({**_MEMINFO, **_VERSION_2,
      "sys/fs/cgroup/jobs/mine/memory.max": "5000\n"}, 5000),
    ({**_MEMINFO, **_VERSION_2,
      "sys/fs/cgroup/jobs/mine/memory.max": "5000\n",
      "sys/fs/cgroup/jobs/mine/memory.current": "3000\n"}, 2000),
    # Of 3000 bytes used, 1200 are cached files.
    ({**_MEMINFO, **_VERSION_2,
      "sys/fs/cgroup/jobs/mine/memory.max": "5000\n",
      "sys/fs/cgroup/jobs/mine/memory.current": "3000\n",
      "sys/fs/cgroup/jobs/mine/memory.stat":
          "anon 1800\nfile 1200\ntotal_inactive_file 7\ninactive_file 1200\n"},
     3200),
    ({**_MEMINFO, **_VERSION_2,
      "sys/fs/cgroup/jobs/mine/memory.max": "5000\n",
      "sys/fs/cgroup/jobs/mine/memory.current": "6000\n"}, 0),
    # The parent group has less left, since other groups use it, too.
    ({**_MEMINFO, **_VERSION_2,
      "sys/fs/cgroup/jobs/mine/memory.max": "5000\n",
      "sys/fs/cgroup/jobs/mine/memory.current": "3000\n",
      "sys/fs/cgroup/jobs/memory.max": "9000\n",
      "sys/fs/cgroup/jobs/memory.current": "8500\n"}, 500),
    ({**_MEMINFO, "proc/self/cgroup": "0::/\n",
      "sys/fs/cgroup/memory.max": "5000\n",
      "sys/fs/cgroup/memory.current": "1000\n"}, 4000),
    ({**_MEMINFO, **_VERSION_1,
      "sys/fs/cgroup/memory/jobs/mine/memory.limit_in_bytes": _UNLIMITED,
      "sys/fs/cgroup/memory/jobs/mine/memory.usage_in_bytes": "4000\n"},
     8000 * 1024),
    ({**_MEMINFO, **_VERSION_1,
      "sys/fs/cgroup/memory/jobs/mine/memory.limit_in_bytes": "5000\n",
      "sys/fs/cgroup/memory/jobs/mine/memory.usage_in_bytes": "4000\n",
      "sys/fs/cgroup/memory/jobs/mine/memory.stat":
          "cache 900\ninactive_file 100\ntotal_inactive_file 600\n"}, 1600),
    ({**_MEMINFO, **_VERSION_1,
      "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n"}, 5000),
])
def test_available_memory(system, files, expected):
  assert workers.available_memory(system(files)) == expected


def test_available_memory_is_a_plausible_amount():
  available = workers.available_memory()
  assert available is None or 1 << 20 < available < 1 << 50


def test_only_files_on_tmpfs_take_memory(tmp_path):
  device = os.stat(tmp_path).st_dev
  (tmp_path / "proc/self").mkdir(parents=True)
  for kind, wanted in (("tmpfs", True), ("ext4", False)):
    (tmp_path / "proc/self/mountinfo").write_text(
        "30 1 99:99 / /a rw - tmpfs none rw\n"
        "31 1 {}:{} / /b rw shared:1 - {} /dev/sda rw\n".format(
            os.major(device), os.minor(device), kind))
    assert workers.is_in_memory(
        str(tmp_path / "new/folder"), str(tmp_path)) is wanted
  assert not workers.is_in_memory(str(tmp_path), str(tmp_path / "new"))
