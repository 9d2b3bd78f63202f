"""Liveness of the processes that train together: who runs, and who is lost.

Two threads of each process work while the main thread trains. One exchanges a
few numbers with all processes every other second. The other one looks for lost
processes. How the numbers travel comes in as a function.

A process        | says                 | The other processes
-----------------|----------------------|--------------------------------------
trains           | RUNNING              | train.
is at a barrier  | RUNNING, one barrier | wait there until all have come, for
                 | more than before     | as long as that takes.
has finished     | FINISHED             | end when all have finished.
has an error     | FAILED               | end; that process prints the error.
got a signal     | INTERRUPTED          | end; that process prints a line.
died or stopped  | nothing              | end; the lowest rank left on its host
                 |                      | prints which process is lost.
is unreachable   | nothing              | end after the stall limit, likewise.
"""

import contextlib
import enum
import os
import socket
import threading
import time
from typing import Callable, List, NamedTuple, NoReturn, Optional, Sequence

import numpy as np
import tensorflow as tf

from util import command_line
from util.command_line import InputError

# Takes [barriers reached, state] of this process. Returns those of all, int64,
# [processes, 2]; raises OpError where the engine is shut down.
Exchange = Callable[[Sequence[int]], np.ndarray]

# Seconds between two exchanges while no process waits.
_EXCHANGE_SECONDS = 2.0
# Seconds between two looks. Open MPI leaves one second before it kills.
_WATCH_SECONDS = 0.1
# Seconds in which the last word of a process that ends still arrives.
_GRACE_SECONDS = 0.2
# Seconds in which the main thread may end by itself once a process is lost.
_EXIT_SECONDS = 3.0


class State(enum.IntEnum):
  """What a process says of itself."""
  RUNNING = 0
  FINISHED = 1
  FAILED = 2
  INTERRUPTED = 3


class Peer(NamedTuple):
  """Where a process runs.

  Attributes:
    host: the name of its host.
    process_space: equal where a process id means the same process; None if
      unknown.
    process_id: of the process.
  """
  host: str
  process_space: Optional[str]
  process_id: int

  @classmethod
  def of_this_process(cls) -> "Peer":
    """Describes this process."""
    space = None
    with contextlib.suppress(OSError):
      with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        space = file.read() + os.readlink("/proc/self/ns/pid")
    return cls(socket.gethostname(), space, os.getpid())

  def state(self) -> str:
    """Returns Linux's letter for the state of a process of this host.

    Z and X stand for a dead process, "" for none, T for a stopped one.
    """
    try:
      with open("/proc/{}/stat".format(self.process_id), encoding="ascii",
                errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]
    except OSError:
      return ""


class Liveness:
  """Exchanges states and finds lost processes.

  Attributes:
    peers: all processes, by rank, once they are known.
    activity: returns what this process does, such as "at step 12", for errors.
    before_exit: called before this process may exit within its `with` blocks.
    is_shut_down: whether the engine has ended.
    is_connecting: whether the engine sets up connections, when it answers
      nobody; the stall limit starts afterwards.
  """

  def __init__(self, rank: int, size: int, name: str, exchange: Exchange,
               stall_seconds: float):
    """Prepares the threads.

    Args:
      rank: of this process.
      size: the number of processes.
      name: what errors call this process.
      exchange: see `Exchange`.
      stall_seconds: how long another process may not answer; 0 for ever.
    """
    self.peers: Sequence[Peer] = ()
    self.activity: Callable[[], str] = lambda: "before the first step"
    self.before_exit: Callable[[], None] = lambda: None
    self.is_shut_down = self.is_connecting = False
    self._rank, self._name, self._exchange = rank, name, exchange
    self._stall_seconds = stall_seconds
    self._changed = threading.Condition()
    self._num_barriers, self._state = 0, State.RUNNING
    self._heard = np.zeros([size, 2], np.int64)  # As of the last exchange.
    self._asked_at: Optional[float] = None
    self._reported, self._ended = threading.Event(), threading.Event()
    # A thread that waits for a lost process must not keep this one alive.
    self._exchanging = threading.Thread(target=self._keep_in_touch, daemon=True)
    self._watching = threading.Thread(target=self._watch, daemon=True)

  def start(self) -> None:
    """Starts both threads."""
    self._exchanging.start()
    self._watching.start()

  def barrier(self, state: State = State.RUNNING) -> None:
    """Waits for all processes.

    The engine takes it for a stall where a process waits in a collective
    operation that another one has not begun; at a barrier none does.

    Raises:
      ReportedError: a process is lost, or has failed.
    """
    with self._changed:
      self._num_barriers += 1
      self._state = state
      self._changed.notify_all()
      self._changed.wait_for(lambda: self._are_all_here() or self.is_shut_down
                             or self._has_failure())
      if self._are_all_here():
        return
    self.raise_lost()

  def leave(self, state: Optional[State] = None) -> None:
    """Ends both threads, after a last word if one is given."""
    if state is not None:
      with self._changed:
        self._state = state
        self._changed.notify_all()
    self._exchanging.join(2 * _EXCHANGE_SECONDS)
    self._ended.set()

  def is_any_lost(self) -> bool:
    """Returns whether the engine is shut down or a process of this host died.
    """
    return self.is_shut_down or bool(self._lost())

  def has_failed(self) -> bool:
    """Returns whether another process has said that it failed."""
    return bool((self._heard[:, 1] == State.FAILED).any())

  def raise_lost(self) -> NoReturn:
    """Lets the watching thread report what has ended the engine.

    Raises:
      ReportedError: always, once a line says which process is lost.
    """
    self.is_shut_down = True
    self._reported.wait()
    raise command_line.ReportedError

  def _are_all_here(self) -> bool:
    return bool((self._heard[:, 0] >= self._num_barriers).all())

  def _has_failure(self) -> bool:
    """Returns whether another process ends with a message of its own."""
    return bool((self._heard[:, 1] >= State.FAILED).any())

  def _neighbours(self) -> List[int]:
    """Returns the ranks of the other processes of this host."""
    spaces = [peer.process_space for peer in self.peers]
    return [rank for rank, space in enumerate(spaces)
            if rank != self._rank and space and space == spaces[self._rank]]

  def _lost(self, states: str = "ZX") -> List[int]:
    """Returns the neighbours that are gone without a word.

    Args:
      states: letters of `Peer.state` that count as gone, as "" does.
    """
    return [rank for rank in self._neighbours()
            if self._heard[rank, 1] == State.RUNNING
            and self.peers[rank].state() in states]

  def _keep_in_touch(self) -> None:
    """Exchanges states until all processes have finished or one has not."""
    while True:
      with self._changed:
        # A process that waits asks again at once; the others answer in time.
        self._changed.wait_for(
            lambda: self._state != State.RUNNING or not self._are_all_here(),
            _EXCHANGE_SECONDS)
        said = (self._num_barriers, self._state)
        self._asked_at = time.monotonic()
      try:
        heard = self._exchange(said)
      except tf.errors.OpError:
        heard = None
      with self._changed:
        self._asked_at = None
        if heard is None:
          self.is_shut_down = True
        else:
          self._heard = heard
        self._changed.notify_all()
        # All processes hear the same, so all stop after the same exchange.
        if (heard is None or self._has_failure()
            or (heard[:, 1] == State.FINISHED).all()):
          return

  def _watch(self) -> None:
    """Ends this process where another one is lost or has failed."""
    looked_at, connected_at = time.monotonic(), 0.0
    was_suspended, cause = False, ""
    while not cause:
      if self._ended.wait(_WATCH_SECONDS):
        return
      now = time.monotonic()
      was_suspended |= self._is_over_limit(looked_at, now)
      looked_at = now
      if self.is_connecting:
        connected_at = now
      asked_at = self._asked_at
      if self.is_any_lost() or self._has_failure():
        cause = ("the engine shut down; its warning, if any, names who is "
                 "missing")
      elif asked_at is not None and self._is_over_limit(
          max(asked_at, connected_at), now):
        cause = "no answer for {:.0f} seconds".format(self._stall_seconds)
    # A process that fails or finishes has said so, but perhaps just now.
    self._exchanging.join(_GRACE_SECONDS)
    if self._ended.wait(_GRACE_SECONDS):
      return
    # A process that was suspended only finds that the others have gone.
    if not was_suspended and not self._has_failure():
      self._report(cause)
    self.before_exit()
    self._reported.set()
    self._ended.wait(_EXIT_SECONDS)
    os._exit(1)  # pylint: disable=protected-access

  def _is_over_limit(self, start: float, now: float) -> bool:
    return 0 < self._stall_seconds < now - start

  def _report(self, cause: str) -> None:
    """Prints which processes are lost, in the lowest rank left on the host.

    Args:
      cause: how the loss was noticed, where the processes are not known.
    """
    lost = self._lost("ZXT")
    neighbours = [rank for rank in self._neighbours() if rank < self._rank]
    if any(rank not in lost for rank in neighbours):
      # The launcher ends all processes when the first one ends.
      self._ended.wait(_EXIT_SECONDS)
      return
    names = ", ".join("process {} (pid {} on {}, {})".format(
        rank, self.peers[rank].process_id, self.peers[rank].host,
        "stopped" if self.peers[rank].state() == "T" else "which has died")
                      for rank in lost)
    command_line.print_error(InputError(
        "{} lost {} {}: see the messages of the others and of the launcher; "
        "the same command resumes from what is saved".format(
            self._name, names or "the others ({})".format(cause),
            self.activity())))
