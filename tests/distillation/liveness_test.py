"""Tests of the detection of lost processes, with simulated processes.

`tests/distributed_faults_test.py` kills and stops real processes.
"""

import itertools
import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import tensorflow as tf

from distillation import liveness
from distillation.liveness import Liveness, Peer, State
import processes
from util import command_line

# Stall limit in seconds; seconds of `_Clock` in tests with the fixture `clock`.
_LIMIT = 60


class _Others:
  """An exchange with one other, simulated process.

  Attributes:
    answers: set while the engine answers.
    said: row of the other process; None repeats the row of this process,
      `SHUT_DOWN` simulates a shutdown of the engine.
    exchanges: number of exchanges that this process has started.
  """
  SHUT_DOWN = object()

  def __init__(self):
    self.answers = threading.Event()
    self.said = None
    self.exchanges = 0

  def __call__(self, own):
    self.exchanges += 1
    self.answers.wait()
    if self.said is self.SHUT_DOWN:
      raise tf.errors.UnknownError(None, None, "Horovod has been shut down")
    return np.array([own, self.said or own])


@pytest.fixture(name="printed")
def _printed(monkeypatch):
  """The printed error messages."""
  printed = []
  monkeypatch.setattr(command_line, "print_error", lambda error: printed.append(
      command_line.message(error)))
  return printed


@pytest.fixture(name="_hurry", autouse=True)
def _hurry(monkeypatch):
  """Shortens the waits of the threads to a millisecond."""
  for name in ("_WATCH_SECONDS", "_GRACE_SECONDS", "_EXIT_SECONDS",
               "_EXCHANGE_SECONDS"):
    monkeypatch.setattr(liveness, name, 0.001)


@pytest.fixture(name="clock")
def _clock(monkeypatch):
  """The clock that the threads read."""
  clock = _Clock()
  monkeypatch.setattr(
      liveness, "time", types.SimpleNamespace(monotonic=clock))
  return clock


class _Clock:
  """A clock that advances one second at each reading."""

  def __init__(self):
    self._count = itertools.count()
    self.now = 0

  def __call__(self):
    self.now = next(self._count)
    return float(self.now)


@pytest.fixture(name="ended")
def _ended(monkeypatch):
  """An event that is set when the process would exit."""
  ended = threading.Event()
  monkeypatch.setattr(liveness.os, "_exit", lambda unused_code: ended.set())
  return ended


def _start(others, peers=()):
  alive = Liveness(0, 2, "process 0 of 2 on here", others, _LIMIT)
  alive.activity = lambda: "at step 3"
  alive.peers = peers
  alive.start()
  return alive


def test_processes_that_do_not_answer_are_lost(clock, printed, ended):
  _start(_Others())
  assert ended.wait(20)
  assert _LIMIT < clock.now
  assert printed == [
      "process 0 of 2 on here lost the others (no answer for 60 seconds) at "
      "step 3: see the messages of the other processes and of the launcher; "
      "the same command resumes from the newest checkpoint"]


def test_the_stall_limit_starts_once_the_engine_is_connected(
    clock, printed, ended):
  others = _Others()
  alive = Liveness(0, 2, "process 0", others, _LIMIT)
  alive.is_connecting = True
  alive.start()
  processes.wait_until(lambda: clock.now > 5 * _LIMIT)
  assert not ended.is_set() and not printed
  connected = clock.now
  alive.is_connecting = False
  assert ended.wait(20)
  assert clock.now > connected + _LIMIT
  assert len(printed) == 1


def test_a_stall_limit_of_0_is_no_limit(clock, printed, ended):
  alive = Liveness(0, 2, "process 0", _Others(), 0)
  alive.start()
  processes.wait_until(lambda: clock.now > 5 * _LIMIT)
  assert not ended.is_set() and not printed
  alive.leave()


def test_a_barrier_waits_for_the_other_process(printed, ended):
  others = _Others()
  others.said = (0, State.RUNNING)
  others.answers.set()
  alive = _start(others)
  passed = threading.Event()
  threading.Thread(target=lambda: (alive.barrier(), passed.set())).start()
  exchanges = others.exchanges
  processes.wait_until(lambda: others.exchanges > exchanges + 5)
  assert not passed.is_set()
  others.said = (1, State.RUNNING)
  assert passed.wait(20)
  alive.leave(State.FINISHED)
  assert not printed and not ended.is_set()


@pytest.mark.parametrize("state", [State.FAILED, State.INTERRUPTED])
def test_the_error_of_another_process_is_not_printed(
    printed, ended, state):
  others = _Others()
  others.answers.set()
  others.said = (0, state)
  with pytest.raises(command_line.ReportedError):
    _start(others).barrier()
  assert ended.wait(20)
  assert not printed


def test_a_process_that_has_died_is_named(printed, ended):
  with subprocess.Popen([sys.executable, "-c", "input()"],
                        stdin=subprocess.PIPE) as other:
    own = Peer.of_this_process()
    others = _Others()
    others.answers.set()
    alive = _start(others, [own, own._replace(process_id=other.pid)])
    others.said = (0, State.RUNNING)
    assert not alive.is_any_lost()
    other.kill()
    assert ended.wait(20)
  assert len(printed) == 1
  assert printed[0].startswith(
      "process 0 of 2 on here lost process 1 (pid {} on {}, which has died) at "
      "step 3: ".format(other.pid, own.host))


def test_only_the_lowest_remaining_rank_reports(printed, ended):
  own = Peer.of_this_process()
  others = _Others()
  others.said = others.SHUT_DOWN
  others.answers.set()
  alive = Liveness(1, 2, "process 1 of 2", others, _LIMIT)
  alive.peers = [own._replace(process_id=os.getppid()), own]
  alive.start()
  assert ended.wait(20)
  assert not printed


def test_process_ids_of_another_host_are_ignored():
  own = Peer.of_this_process()
  alive = Liveness(0, 2, "process 0 of 2", _Others(), _LIMIT)
  gone = own._replace(process_id=2 ** 22 + 1)
  alive.peers = [own, gone]
  assert alive.is_any_lost()
  for space in (None, "another"):
    alive.peers = [own, gone._replace(process_space=space)]
    assert not alive.is_any_lost()
