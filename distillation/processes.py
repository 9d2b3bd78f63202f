"""The processes that train together, and their collective operations.

`Processes` holds the collectives of the engine; this module does not import
Horovod. `Group` exchanges and compares values, and ends all processes with one
message. `liveness.py` finds lost processes.
"""

import contextlib
import dataclasses
import io
import pickle
import re
import socket
from typing import (Any, Callable, Iterator, List, Mapping, NoReturn, Optional,
                    Sequence, Tuple, TypeVar)

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from distillation import agreement
from distillation import devices
from distillation.liveness import Liveness, Peer, State
from util import command_line
from util.command_line import InputError

T = TypeVar("T")
# Collective operation. Takes a tensor, whose shape is equal in all processes,
# and a name.
Reduce = Callable[[tf.Tensor, str], tf.Tensor]

# Part of every error message of Horovod in a session.
ENGINE = "Horovod"
# Part of these messages if another process has ended.
_LOST_PROCESS = re.compile("shut down|[Cc]onnection|[Bb]roken pipe")


def identity(tensor: tf.Tensor, unused_name: str = "") -> tf.Tensor:
  """Returns the tensor: the sum, and the concatenation, over one process."""
  return tensor


@dataclasses.dataclass(frozen=True)
class Processes:
  """Rank, size and collectives of the processes that train together.

  Attributes:
    rank: rank of this process; rank 0 writes checkpoints, results and messages.
    size: number of processes.
    local_rank: rank among the processes of this machine, which chooses the GPU;
      None without Horovod.
    local_size: number of processes on this machine.
    wrap_optimizer: as for `optimization.create_train_step`.
    broadcast_hooks: session hooks that copy all variables from rank 0.
    reduce_sum: returns the sum of a tensor over all processes.
    gather: returns the tensors of all processes, concatenated by rank along the
      first axis.
    transport: transport of gradients, NCCL, MPI or Gloo; None for one process.
    flags: values of flags that `TrainerOptions` lacks, by name.
    scale_learning_rate: whether to multiply the learning rate, and to divide
      the numbers of steps, by the number of processes.
    stall_seconds: seconds without an answer after which a process counts as
      lost; 0 for no limit.
  """
  rank: int = 0
  size: int = 1
  local_rank: Optional[int] = None
  local_size: int = 1
  wrap_optimizer: Optional[Callable[[tf1.train.Optimizer],
                                    tf1.train.Optimizer]] = None
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
    """Factor of the learning rate, and divisor of the numbers of steps."""
    return self.size if self.scale_learning_rate else 1

  def name(self) -> str:
    """Returns the name of this process in messages."""
    return agreement.process_name(self.rank, self.size, socket.gethostname())


class Group:
  """Collective operations of all processes, within a `with` block.

  All processes enter the block and call the methods in the same order.

  Attributes:
    liveness: watches the other processes.
  """

  def __init__(self, processes: Processes, session_config: tf1.ConfigProto):
    """Initialises the group.

    Args:
      processes: the processes that train together.
      session_config: settings of the training session: the first session of a
        process determines the number of threads of all sessions.
    """
    self._processes = processes
    self.liveness = Liveness(
        processes.rank, processes.size, processes.name(),
        self._exchange_states, processes.stall_seconds)
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
      self._own_bytes = tf1.placeholder(tf.uint8, [None])
      self._all_bytes = gather(self._own_bytes, "group_bytes")
    self._session = tf1.Session(graph=graph, config=config)

  def _exchange_states(self, own_state: Sequence[int]) -> np.ndarray:
    return self._session.run(self._all_states, {self._own_state: [own_state]})

  def __enter__(self) -> "Group":
    if self._processes.size > 1:
      with self.errors():
        self.liveness.start()
        self.liveness.peers = self.gather(Peer.of_this_process())
    return self

  def __exit__(self, exception_type, *unused_exception):
    if self._processes.size == 1:
      return
    if exception_type is None:
      with self.errors():
        self.barrier(State.FINISHED)
      self.liveness.leave()
    else:
      # The other processes learn that this process prints the message.
      self.liveness.leave(
          State.INTERRUPTED
          if issubclass(exception_type, KeyboardInterrupt)
          else State.FAILED)

  def barrier(self, state: State = State.RUNNING) -> None:
    """Waits, without a time limit, until all processes reach this call.

    Raises:
      ReportedError: if a process is lost or has failed; the error is printed.
    """
    if self._processes.size > 1:
      self.liveness.barrier(state)

  def gather(self, value: Any) -> List[Any]:
    """Returns the values of all processes, by rank."""
    if self._processes.size == 1:
      return [value]
    pickled = np.frombuffer(pickle.dumps(value), np.uint8)
    self.barrier()
    gathered = io.BytesIO(self._session.run(
        self._all_bytes, {self._own_bytes: pickled}).tobytes())
    return [pickle.load(gathered) for _ in range(self._processes.size)]

  def broadcast(self, value: Optional[T]) -> T:
    """Returns the value of rank 0; other processes may pass None."""
    return self.gather(value)[0]

  def check(self, check: Callable[[], T],
            describe: Callable[[T], agreement.Description]) -> T:
    """Runs a check in each process, and compares the results.

    Args:
      check: raises InputError or OSError for bad input.
      describe: returns the description of a result of `check`, which must be
        equal in all processes.

    Returns:
      The result of `check` in this process.

    Raises:
      InputError: if the check fails and there is one process.
      ReportedError: if a check fails or processes differ; rank 0 prints the
        error.
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
    """Ends all processes with an error that all processes have found.

    Raises:
      InputError: if there is one process.
      ReportedError: if there are several; rank 0 prints the error.
    """
    if self._processes.size == 1:
      raise error
    if self._processes.is_writer:
      command_line.print_error(error)
    # A launcher kills all processes once one process ends with an error.
    self.barrier()
    raise command_line.ReportedError

  def interrupt(self, details: str) -> NoReturn:
    """Ends all processes after a signal that all processes know of.

    Raises:
      KeyboardInterrupt: always; rank 0 prints the details.
    """
    if self._processes.size == 1:
      raise KeyboardInterrupt(details)
    if self._processes.is_writer:
      command_line.print_interrupt(details)
    self.barrier()
    raise command_line.ReportedInterrupt

  @contextlib.contextmanager
  def errors(self) -> Iterator[None]:
    """Adds the name of this process to errors, and reports lost processes."""
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
      if ENGINE not in error.message and not self.liveness.is_shut_down:
        raise
      if _LOST_PROCESS.search(error.message) or self.liveness.is_any_lost():
        self.liveness.raise_lost()
      raise InputError(
          "{}: {} failed {}: {}; set NCCL_DEBUG=INFO for details of GPUs; the "
          "same command resumes from the newest checkpoint".format(
              self._processes.name(), ENGINE, self.liveness.activity(),
              devices.first_line(error))) from error
    except KeyboardInterrupt:
      # A launcher interrupts all processes once one process is lost.
      if self.liveness.has_failed() or self.liveness.is_any_lost():
        self.liveness.raise_lost()
      raise
