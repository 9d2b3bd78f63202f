"""The processes that train together, and what they do in common.

How tensors get from one process to the others comes in as data (`Processes`);
this module does not know Horovod. `Group` compares and shares values, and ends
all processes with one message. `liveness.py` finds lost processes.
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
# Takes a tensor of this process, the same shape in all, and a name.
Reduce = Callable[[tf.Tensor, str], tf.Tensor]

# Part of each error that Horovod raises in a session.
ENGINE = "Horovod"
# Part of those errors where another process has gone.
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


class Group:
  """Joins this process with the others, within a `with` block.

  All processes go through the block, and call the methods below in the same
  order.

  Attributes:
    liveness: what this process knows of the others.
  """

  def __init__(self, processes: Processes, session_config: tf1.ConfigProto):
    """Prepares the exchange.

    Args:
      processes: those that train together.
      session_config: of the training session, for its threads: TensorFlow's
        pool has the size that the first session of a process asks for.
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

  def _exchange_states(self, said: Sequence[int]) -> np.ndarray:
    return self._session.run(self._all_states, {self._own_state: [said]})

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
      # The others hear that this process has something to say itself.
      self.liveness.leave(
          State.INTERRUPTED
          if issubclass(exception_type, KeyboardInterrupt)
          else State.FAILED)

  def barrier(self, state: State = State.RUNNING) -> None:
    """Waits until all processes have come here, however long that takes.

    Raises:
      ReportedError: a process is lost or has failed, and a line says so.
    """
    if self._processes.size > 1:
      self.liveness.barrier(state)

  def gather(self, value: Any) -> List[Any]:
    """Returns the values that all processes give, by rank."""
    if self._processes.size == 1:
      return [value]
    pickled = np.frombuffer(pickle.dumps(value), np.uint8)
    self.barrier()
    gathered = io.BytesIO(self._session.run(
        self._all_bytes, {self._own_bytes: pickled}).tobytes())
    return [pickle.load(gathered) for _ in range(self._processes.size)]

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
      if ENGINE not in error.message and not self.liveness.is_shut_down:
        raise
      if _LOSSES.search(error.message) or self.liveness.is_any_lost():
        self.liveness.raise_lost()
      raise InputError(
          "{}: {} failed {}: {}; NCCL_DEBUG=INFO says more of GPUs, and the "
          "same command resumes from what is saved".format(
              self._processes.name(), ENGINE, self.liveness.activity(),
              devices.first_line(error))) from error
    except KeyboardInterrupt:
      # The launcher ends the others when one is lost.
      if self.liveness.has_failed() or self.liveness.is_any_lost():
        self.liveness.raise_lost()
      raise
