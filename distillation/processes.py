"""The processes that train together: what they share, and what ends them all.

How tensors get from one process to the others comes in as data (`Processes`);
this module does not know Horovod. `Group` keeps the processes in touch: a
thread of each exchanges a few numbers every other second, whatever the main
thread does. So no process waits at a point of which the engine would think
that the others have stalled, and each finds out when another one dies, stops
or fails.
"""

import contextlib
import dataclasses
import os
import pickle
import re
import select
import socket
import threading
import time
from typing import (Any, Callable, Dict, Iterator, List, Mapping, NamedTuple,
                    NoReturn, Optional, Tuple, TypeVar)

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from distillation import agreement
from distillation import devices
from util import command_line
from util.command_line import InputError

T = TypeVar("T")
# Takes a tensor of this process, the same shape in all, and a name.
Reduce = Callable[[tf.Tensor, str], tf.Tensor]

# Seconds between two exchanges while nobody waits.
_EXCHANGE_SECONDS = 2.0
# Seconds between two looks at the processes of this machine.
_WATCH_SECONDS = 0.25
# Seconds in which a process that ends in order can still be heard.
_GRACE_SECONDS = 0.3
# Seconds in which the main thread may end by itself once another is lost.
_EXIT_SECONDS = 3.0
# What a process says of itself.
_RUNNING, _FINISHED, _FAILED, _INTERRUPTED = range(4)
# What is known where none of this machine has died.
_SHUT_DOWN = "the engine shut down; its warning, if any, names who is missing"
# Part of the errors that Horovod raises in a session, and of those that it
# raises where another process has gone.
ENGINE = "Horovod"
_LOSSES = re.compile("shut down|[Cc]onnection|[Bb]roken pipe")


def identity(tensor: tf.Tensor, unused_name: str = "") -> tf.Tensor:
  """Returns what one process alone has: the sum and the list of one."""
  return tensor


@dataclasses.dataclass(frozen=True)
class Processes:
  """The processes that train together, as one of them sees them.

  Attributes:
    rank: this process; 0 writes checkpoints and results, and reports.
    size: how many there are.
    local_rank: this process among those of its machine, which says what GPU
      it uses; None leaves the choice to TensorFlow.
    local_size: how many share this machine and its cores.
    wrap_optimizer: as for `optimization.create_train_step`.
    hooks: session hooks for training.
    broadcast_hooks: session hooks that give each variable of a session the
      value that it has in rank 0.
    reduce_sum: returns the sum of a tensor over all processes.
    gather: returns the tensors of all processes, by rank, as one along the
      first dimension.
    transport: what carries gradients, NCCL, MPI or Gloo; None where there is
      one process.
    flags: by name what this process was told beside the trainers' flags.
    scale_learning_rate: whether the learning rate is multiplied and the
      numbers of steps are divided by the number of processes.
    stall_seconds: how long another process may not answer; 0 for ever.
  """
  rank: int = 0
  size: int = 1
  local_rank: Optional[int] = None
  local_size: int = 1
  wrap_optimizer: Optional[Callable[[tf1.train.Optimizer],
                                    tf1.train.Optimizer]] = None
  hooks: Tuple[tf1.train.SessionRunHook, ...] = ()
  broadcast_hooks: Tuple[tf1.train.SessionRunHook, ...] = ()
  reduce_sum: Reduce = identity
  gather: Reduce = identity
  transport: Optional[str] = None
  flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  scale_learning_rate: bool = True
  stall_seconds: float = 60.0

  @property
  def is_writer(self) -> bool:
    """Whether this process writes and reports."""
    return self.rank == 0

  @property
  def schedule_divisor(self) -> int:
    """What multiplies the learning rate and divides the numbers of steps."""
    return self.size if self.scale_learning_rate else 1

  def name(self) -> str:
    """Returns what errors call this process."""
    return agreement.process_name(self.rank, self.size, socket.gethostname())


class _Peer(NamedTuple):
  """Where a process runs.

  Attributes:
    host: the name of its machine.
    machine: what is the same where process ids mean the same; None if nothing
      tells.
    process_id: of the process.
  """
  host: str
  machine: Optional[str]
  process_id: int

  @classmethod
  def of_this_process(cls) -> "_Peer":
    """Describes this process."""
    machine = None
    with contextlib.suppress(OSError):
      with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        machine = "{} {}".format(
            file.read().strip(), os.readlink("/proc/self/ns/pid"))
    return cls(socket.gethostname(), machine, os.getpid())


class Group:
  """Keeps this process in touch with the others, within a `with` block.

  All processes go through the block, and call the methods below in the same
  order.

  Attributes:
    activity: returns what this process is doing, such as "at step 12", for
      errors.
    before_exit: called where another process is lost, as this one may then end
      without leaving the block.
  """

  def __init__(self, processes: Processes, session_config: tf1.ConfigProto):
    """Prepares the exchange.

    Args:
      processes: those that train together.
      session_config: of the training session, for its threads: TensorFlow's
        pool has the size that the first session of a process asks for.
    """
    self.activity: Callable[[], str] = lambda: "before the first step"
    self.before_exit: Callable[[], None] = lambda: None
    self._processes = processes
    self._peers: Dict[int, _Peer] = {}
    self._neighbours: Dict[int, _Peer] = {}  # Those of the same machine.
    self._changed = threading.Condition()
    self._num_arrived, self._state = 0, _RUNNING
    # What each process said last: how many barriers it has come to, its state.
    self._heard = np.zeros([processes.size, 2], np.int64)
    self._waits_since: Optional[float] = None
    self._is_broken = self._was_away = False
    # Taken by the thread that tells of a lost process: one line is enough.
    self._telling = threading.Lock()
    self._ended = threading.Event()
    self._threads: List[threading.Thread] = []
    if processes.size > 1:
      self._build_session(session_config)

  def _build_session(self, session_config: tf1.ConfigProto) -> None:
    gather = self._processes.gather
    config = tf1.ConfigProto()
    config.CopyFrom(session_config)
    config.device_count["GPU"] = 0
    with tf.Graph().as_default() as graph, tf.device("/cpu:0"):
      self._own_state = tf1.placeholder(tf.int64, [1, 2])
      self._all_states = gather(self._own_state, "group_states")
      self._own_length = tf1.placeholder(tf.int64, [1])
      self._own_bytes = tf1.placeholder(tf.uint8, [None])
      self._all_bytes = (gather(self._own_length, "group_lengths"),
                         gather(self._own_bytes, "group_bytes"))
    self._session = tf1.Session(graph=graph, config=config)

  def __enter__(self) -> "Group":
    if self._processes.size > 1:
      with self.errors():
        self._start(self._exchange)
        found = self.gather(_Peer.of_this_process())
      own = found.pop(self._processes.rank)
      ranks = [rank for rank in range(self._processes.size)
               if rank != self._processes.rank]
      self._peers = dict(zip(ranks, found))
      self._neighbours = {rank: peer for rank, peer in self._peers.items()
                          if own.machine and peer.machine == own.machine}
      self._start(self._watch)
    return self

  def __exit__(self, exception_type, *unused_exception):
    if self._processes.size == 1:
      return
    if exception_type is None:
      with self.errors():
        self.barrier(_FINISHED)
    else:
      # The others hear that this process has something to say itself.
      with self._changed:
        self._state = (
            _INTERRUPTED if issubclass(exception_type, KeyboardInterrupt)
            else _FAILED)
        self._changed.notify_all()
    self._threads[0].join(2 * _EXCHANGE_SECONDS)
    self._ended.set()

  def _start(self, run: Callable[[], None]) -> None:
    # A thread that waits for a lost process must not keep this one alive.
    self._threads.append(threading.Thread(target=run, daemon=True))
    self._threads[-1].start()

  # --- What the processes do together ---

  def barrier(self, state: int = _RUNNING) -> None:
    """Waits until all processes have come here, however long that takes.

    The engine takes it for a stall where one process waits in a collective
    operation for what another one has not begun; here none does.
    """
    if self._processes.size == 1:
      return
    with self._changed:
      self._num_arrived += 1
      self._state = state
      self._changed.notify_all()
      self._changed.wait_for(
          lambda: self._has_all(self._num_arrived) or self._is_broken
          or self._has_failed())
      if not self._has_all(self._num_arrived):
        self._raise_lost()

  def gather(self, value: Any) -> List[Any]:
    """Returns the values that all processes give, by rank."""
    if self._processes.size == 1:
      return [value]
    pickled = np.frombuffer(pickle.dumps(value), np.uint8)
    self.barrier()
    lengths, gathered = self._session.run(
        self._all_bytes, {self._own_length: [len(pickled)],
                          self._own_bytes: pickled})
    ends = np.cumsum(lengths)
    return [pickle.loads(gathered[end - length:end].tobytes())
            for length, end in zip(lengths, ends)]

  def broadcast(self, value: Optional[T]) -> T:
    """Returns the value that rank 0 gives; the others may have None."""
    return self.gather(value)[0]

  def check(self, check: Callable[[], T],
            describe: Callable[[T], agreement.Description]) -> T:
    """Checks something in each process, and that all find the same.

    Args:
      check: what raises InputError or OSError where something is wrong.
      describe: takes what `check` returned; what it returns must not differ
        between processes.

    Returns:
      What `check` returned here.

    Raises:
      InputError: there is one process, and its check failed.
      ReportedError: a check failed, or processes differ; rank 0 has said so.
    """
    if self._processes.size == 1:
      return check()
    error, description = None, {}
    try:
      result = check()
      description = describe(result)
    except (InputError, OSError) as caught:
      error = command_line.message(caught)
    problem = agreement.find_problem(self.gather(agreement.Member(
        socket.gethostname(), description, error)))
    if problem:
      self.fail(InputError(problem))
    return result

  def fail(self, error: InputError) -> NoReturn:
    """Ends all processes with an error that each of them has found.

    Raises:
      InputError: there is one process.
      ReportedError: rank 0 has printed the error.
    """
    if self._processes.size == 1:
      raise error
    if self._processes.is_writer:
      command_line.print_error(error)
    # A launcher ends all processes when the first one ends with an error.
    self.barrier()
    raise command_line.ReportedError

  def interrupt(self, details: str) -> NoReturn:
    """Ends all processes after a signal that each of them knows of.

    Raises:
      KeyboardInterrupt: always; rank 0 has printed the details, or will.
    """
    if self._processes.size == 1:
      raise KeyboardInterrupt(details)
    if self._processes.is_writer:
      command_line.print_interrupt(details)
    self.barrier()
    raise command_line.ReportedInterrupt

  @contextlib.contextmanager
  def errors(self) -> Iterator[None]:
    """Says which process an error is of, and who is lost where one is."""
    if self._processes.size == 1:
      yield
      return
    try:
      yield
    except command_line.ReportedError:
      raise
    except (InputError, OSError) as error:
      raise InputError("{}: {}".format(
          self._processes.name(), command_line.message(error))) from error
    except tf.errors.OpError as error:
      if ENGINE not in error.message and not self._is_broken:
        raise
      if (self._is_broken or _LOSSES.search(error.message) or self._gone()):
        self._raise_lost()
      raise InputError(
          "{}: {} failed {}: {}; NCCL_DEBUG=INFO says more of GPUs, and the "
          "same command resumes from what is saved".format(
              self._processes.name(), ENGINE, self.activity(),
              devices.first_line(error))) from error
    except KeyboardInterrupt:
      # The launcher ends the others when one is lost.
      if (self._heard[:, 1] == _FAILED).any() or self._gone():
        self._raise_lost()
      raise

  # --- Who is there ---

  def _has_all(self, num_arrived: int) -> bool:
    return bool((self._heard[:, 0] >= num_arrived).all())

  def _has_failed(self) -> bool:
    """Says whether another process has an error that it prints itself."""
    return bool((self._heard[:, 1] >= _FAILED).any())

  def _gone(self) -> List[int]:
    """Returns the processes of this machine that have died or are stopped."""
    return [rank for rank, peer in self._neighbours.items()
            if self._heard[rank, 1] == _RUNNING
            and _state(peer.process_id) in ("", "Z", "X", "T")]

  def _raise_lost(self) -> NoReturn:
    """Tells that another process is lost, where it is this one that tells.

    Raises:
      ReportedError: always.
    """
    # The engine tells the main thread earlier than the exchange, in which a
    # process that failed says so.
    self._threads[0].join(_GRACE_SECONDS)
    self._tell(_SHUT_DOWN)
    self._wait_for_teller()
    raise command_line.ReportedError

  def _tell(self, found: str) -> None:
    """Prints who is lost, at once: a launcher leaves little time for that.

    It is the first process left on each machine that prints, and nobody where
    the process that is lost has an error of its own to print. One that was
    stopped itself only finds that the others have gone.

    Args:
      found: how it was noticed, where it is not known who is lost.
    """
    if not self._telling.acquire(blocking=False):
      return
    gone = self._gone()
    if (self._teller(gone) == self._processes.rank and not self._has_failed()
        and not self._was_away):
      command_line.print_error(InputError(self._lost(found, gone)))

  def _teller(self, gone: List[int]) -> int:
    """Returns which process of this machine tells that others have gone."""
    return min(rank for rank in (self._processes.rank, *self._neighbours)
               if rank not in gone)

  def _wait_for_teller(self) -> None:
    """Gives the process that tells time to find out by itself.

    It hears of the engine's end only when it exchanges again; were this process
    gone by then, it would be told of as the one that was lost.
    """
    end = time.monotonic() + _EXIT_SECONDS
    while time.monotonic() < end:
      teller = self._teller(self._gone())
      if teller == self._processes.rank or self._has_failed():
        return
      time.sleep(_WATCH_SECONDS)

  def _lost(self, found: str, gone: List[int]) -> str:
    """Describes the loss of other processes; as for `_tell`."""
    names = ["process {} (pid {} on {}, {})".format(
        rank, self._peers[rank].process_id, self._peers[rank].host,
        "stopped" if _state(self._peers[rank].process_id) == "T" else
        "which has died") for rank in gone]
    return (
        "{} lost {} {}: see the messages of the others and of the launcher; "
        "the same command resumes from what is saved".format(
            self._processes.name(), ", ".join(names) or
            "the others ({})".format(found), self.activity()))

  # --- The threads ---

  def _exchange(self) -> None:
    """Tells the others how far this process is, and hears the same."""
    while True:
      with self._changed:
        # Who waits asks again at once; the others answer every other second.
        self._changed.wait_for(
            lambda: self._state != _RUNNING
            or not self._has_all(self._num_arrived), _EXCHANGE_SECONDS)
        said = [self._num_arrived, self._state]
        self._waits_since = time.monotonic()
      try:
        heard = self._session.run(self._all_states, {self._own_state: [said]})
      except tf.errors.OpError:
        heard = None  # The engine is down.
      with self._changed:
        self._waits_since = None
        if heard is not None:
          self._heard = heard
        # In the same round for all, as all have heard the same.
        is_over = (heard is None or (heard[:, 1] == _FINISHED).all()
                   or (heard[:, 1] >= _FAILED).any())
        self._is_broken = heard is None
        self._changed.notify_all()
      if is_over:
        return

  def _watch(self) -> None:
    """Ends this process when another one dies or does not answer."""
    poll = select.poll()
    for peer in self._neighbours.values():
      # Python's own builds may lack it, and so may older kernels.
      with contextlib.suppress(AttributeError, OSError):
        poll.register(os.pidfd_open(peer.process_id), select.POLLIN)
    limit = self._processes.stall_seconds
    looked = time.monotonic()
    while not self._ended.is_set():
      found = ""
      if self._has_failed():
        found = "one has failed"
      elif self._is_broken:
        found = _SHUT_DOWN
      elif poll.poll(1000 * _WATCH_SECONDS):
        # Those who end in order have said so, but perhaps just now.
        self._threads[0].join(_GRACE_SECONDS)
        if self._ended.wait(_GRACE_SECONDS):
          return
        found = "one has died"
      if limit and time.monotonic() - looked > limit:
        self._was_away = True
      looked, since = time.monotonic(), self._waits_since
      if limit and since and time.monotonic() - since > limit:
        found = "no answer for {:.0f} seconds".format(limit)
      if found:
        break
    else:
      return
    self._tell(found)
    self.before_exit()  # At once: a launcher leaves little time for that too.
    # The main thread may wait for the lost process for ever, in the engine; if
    # that notices, the process ends in order.
    self._ended.wait(_EXIT_SECONDS)
    os._exit(1)  # pylint: disable=protected-access


def _state(process_id: int) -> str:
  """Returns the state of a process of this machine, "" where it is gone."""
  try:
    with open("/proc/{}/stat".format(process_id), encoding="ascii",
              errors="replace") as file:
      return file.read().rpartition(")")[2].split()[0]
  except OSError:
    return ""
