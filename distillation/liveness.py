"""Liveness of the processes that train together: barriers and lost processes.

Each process runs two threads beside the main thread, which trains. The exchange
thread exchanges states with all processes every two seconds, by a function of
the caller. The watch thread looks for lost processes.

A process        | sends                | The other processes
-----------------|----------------------|--------------------------------------
trains           | RUNNING              | train.
is at a barrier  | RUNNING, one barrier | wait at their barrier, without a time
                 | more than before     | limit.
has finished     | FINISHED             | end when all have finished.
has an error     | FAILED               | end; the failed process prints the
                 |                      | error.
got a signal     | INTERRUPTED          | end; the interrupted process prints a
                 |                      | line.
died or stopped  | nothing              | end; the lowest rank left on its host
                 |                      | prints which process is lost.
is unreachable   | nothing              | end after the stall limit; the lowest
                 |                      | rank of each host prints a line.
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

# Takes [number of barriers reached, state] of this process. Returns the rows of
# all processes, int64 [processes, 2]; raises OpError after a shutdown of the
# engine.
Exchange = Callable[[Sequence[int]], np.ndarray]

# Seconds between two exchanges while no process waits at a barrier.
_EXCHANGE_SECONDS = 2.0
# Seconds between two checks. Open MPI kills one second after its signal.
_WATCH_SECONDS = 0.1
# Seconds to wait for the final state of a process.
_GRACE_SECONDS = 0.2
# Seconds that the main thread has to end after a process is lost.
_EXIT_SECONDS = 3.0


class State(enum.IntEnum):
  """State that a process sends to the others."""
  RUNNING = 0
  FINISHED = 1
  FAILED = 2
  INTERRUPTED = 3


class Peer(NamedTuple):
  """Host and process id of a process.

  Attributes:
    host: name of the host.
    process_space: identifies the boot and PID namespace; None if unknown.
      Process ids of equal spaces are comparable.
    process_id: id of the process.
  """
  host: str
  process_space: Optional[str]
  process_id: int

  @classmethod
  def of_this_process(cls) -> "Peer":
    """Returns the host and id of this process."""
    space = None
    with contextlib.suppress(OSError):
      with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        space = file.read() + os.readlink("/proc/self/ns/pid")
    return cls(socket.gethostname(), space, os.getpid())

  def state(self) -> str:
    """Returns Linux's letter for the state of a process of this host.

    Z or X means dead, T means stopped, "" means that the process is gone.
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
    peers: all processes, by rank; empty until set.
    activity: returns the activity of this process, such as "at step 12", for
      messages.
    before_exit: called before the watch thread ends the process, whose `with`
      blocks then do not exit.
    is_shut_down: whether the engine has shut down.
    is_connecting: whether the engine sets up connections, and does not answer;
      suspends the stall limit.
  """

  def __init__(self, rank: int, size: int, name: str, exchange: Exchange,
               stall_seconds: float):
    """Creates the threads without starting them.

    Args:
      rank: rank of this process.
      size: number of processes.
      name: name of this process in messages.
      exchange: see `Exchange`.
      stall_seconds: seconds without an answer after which another process
        counts as lost; 0 for no limit.
    """
    self.peers: Sequence[Peer] = ()
    self.activity: Callable[[], str] = lambda: "before the first step"
    self.before_exit: Callable[[], None] = lambda: None
    self.is_shut_down = self.is_connecting = False
    self._rank, self._name, self._exchange = rank, name, exchange
    self._stall_seconds = stall_seconds
    self._changed = threading.Condition()
    self._num_barriers, self._state = 0, State.RUNNING
    # Rows of all processes after the last exchange.
    self._states = np.zeros([size, 2], np.int64)
    # Start of the exchange in progress.
    self._exchange_start: Optional[float] = None
    self._reported, self._ended = threading.Event(), threading.Event()
    # Daemons, as an exchange with a lost process may never return.
    self._exchange_thread = threading.Thread(
        target=self._exchange_states, daemon=True)
    self._watch_thread = threading.Thread(target=self._watch, daemon=True)

  def start(self) -> None:
    """Starts both threads."""
    self._exchange_thread.start()
    self._watch_thread.start()

  def barrier(self, state: State = State.RUNNING) -> None:
    """Waits for all processes.

    Waiting in a collective operation would count as a stall of the engine;
    waiting at a barrier does not.

    Raises:
      ReportedError: if a process is lost or has failed.
    """
    with self._changed:
      self._num_barriers += 1
      self._state = state
      self._changed.notify_all()
      self._changed.wait_for(lambda: self._is_barrier_complete()
                             or self.is_shut_down or self._has_failure())
      if self._is_barrier_complete():
        return
    self.raise_lost()

  def leave(self, state: Optional[State] = None) -> None:
    """Ends both threads, after sending a final state if one is given."""
    if state is not None:
      with self._changed:
        self._state = state
        self._changed.notify_all()
    self._exchange_thread.join(2 * _EXCHANGE_SECONDS)
    self._ended.set()

  def is_any_lost(self) -> bool:
    """Returns whether the engine shut down or a process of this host died."""
    return self.is_shut_down or bool(self._lost_neighbours())

  def has_failed(self) -> bool:
    """Returns whether a process has sent FAILED."""
    return bool((self._states[:, 1] == State.FAILED).any())

  def raise_lost(self) -> NoReturn:
    """Waits until the watch thread has reported the lost process.

    Raises:
      ReportedError: always.
    """
    self.is_shut_down = True
    self._reported.wait()
    raise command_line.ReportedError

  def _is_barrier_complete(self) -> bool:
    return bool((self._states[:, 0] >= self._num_barriers).all())

  def _has_failure(self) -> bool:
    """Returns whether a process has sent FAILED or INTERRUPTED."""
    return bool((self._states[:, 1] >= State.FAILED).any())

  def _neighbours(self) -> List[int]:
    """Returns the ranks of the other processes of this host."""
    spaces = [peer.process_space for peer in self.peers]
    return [rank for rank, space in enumerate(spaces)
            if rank != self._rank and space and space == spaces[self._rank]]

  def _lost_neighbours(self, states: str = "ZX") -> List[int]:
    """Returns the neighbours that ended without sending a final state.

    Args:
      states: letters of `Peer.state` that count as ended, as "" does.
    """
    return [rank for rank in self._neighbours()
            if self._states[rank, 1] == State.RUNNING
            and self.peers[rank].state() in states]

  def _exchange_states(self) -> None:
    """Exchanges states until all processes have finished or one has failed."""
    while True:
      with self._changed:
        # A process at a barrier starts the next exchange at once.
        self._changed.wait_for(
            lambda: self._state != State.RUNNING
            or not self._is_barrier_complete(), _EXCHANGE_SECONDS)
        own_state = (self._num_barriers, self._state)
        self._exchange_start = time.monotonic()
      try:
        states = self._exchange(own_state)
      except tf.errors.OpError:
        states = None
      with self._changed:
        self._exchange_start = None
        if states is None:
          self.is_shut_down = True
        else:
          self._states = states
        self._changed.notify_all()
        # All processes receive equal states and stop after the same exchange.
        if (states is None or self._has_failure()
            or (states[:, 1] == State.FINISHED).all()):
          return

  def _watch(self) -> None:
    """Ends this process if another process is lost or has failed."""
    last_check, connected_at = time.monotonic(), 0.0
    was_suspended, cause = False, ""
    while not cause:
      if self._ended.wait(_WATCH_SECONDS):
        return
      now = time.monotonic()
      was_suspended |= self._is_over_limit(last_check, now)
      last_check = now
      if self.is_connecting:
        connected_at = now
      exchange_start = self._exchange_start
      if self.is_any_lost() or self._has_failure():
        cause = ("the engine shut down; its warning, if any, names the missing "
                 "processes")
      elif exchange_start is not None and self._is_over_limit(
          max(exchange_start, connected_at), now):
        cause = "no answer for {:.0f} seconds".format(self._stall_seconds)
    # The final state of a failed or finished process may still be under way.
    self._exchange_thread.join(_GRACE_SECONDS)
    if self._ended.wait(_GRACE_SECONDS):
      return
    # After a suspension of this process, the other processes have reported it.
    if not was_suspended and not self._has_failure():
      self._report(cause)
    self.before_exit()
    self._reported.set()
    self._ended.wait(_EXIT_SECONDS)
    os._exit(1)  # pylint: disable=protected-access

  def _is_over_limit(self, start: float, now: float) -> bool:
    return 0 < self._stall_seconds < now - start

  def _report(self, cause: str) -> None:
    """Prints the lost processes, in the lowest rank left on the host.

    Args:
      cause: reason to print if the lost processes are unknown.
    """
    lost = self._lost_neighbours("ZXT")
    neighbours = [rank for rank in self._neighbours() if rank < self._rank]
    if any(rank not in lost for rank in neighbours):
      # A launcher kills all processes once one process ends.
      self._ended.wait(_EXIT_SECONDS)
      return
    names = ", ".join("process {} (pid {} on {}, {})".format(
        rank, self.peers[rank].process_id, self.peers[rank].host,
        "stopped" if self.peers[rank].state() == "T" else "which has died")
                      for rank in lost)
    command_line.print_error(InputError(
        "{} lost {} {}: see the messages of the other processes and of the "
        "launcher; the same command resumes from the newest checkpoint".format(
            self._name, names or "the others ({})".format(cause),
            self.activity())))
