"""Session hooks of training: progress, saving, signals, non-finite loss."""

import contextlib
import signal
import threading
import time
from typing import Any, Callable, Dict, Iterator, Optional

from absl import logging
import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.python.training import monitored_session
import tqdm

from distillation.processes import ENGINE, Group
from util.command_line import InputError

# A graph's collection of the global step as a step of training leaves it.
STEP_AFTER = "step_after"
# Steps between two lines of the log, where no terminal shows the bar.
LOG_STEPS = 100


@contextlib.contextmanager
def without_recovery(output_dir: str) -> Iterator[None]:
  """Ends in an error what a session would recover from by itself.

  TensorFlow's monitored sessions start again from the newest checkpoint after
  an AbortedError or UnavailableError, but their input continues where it is:
  the records between would be left out, or come twice. Neither Estimator nor
  session has a switch for that, so their private tuple of such errors is
  emptied within the block.

  Args:
    output_dir: folder of the checkpoints, for the error.

  Raises:
    InputError: the session was lost.
  """
  recoverable = monitored_session._PREEMPTION_ERRORS
  monitored_session._PREEMPTION_ERRORS = ()
  try:
    yield
  except recoverable as error:
    if ENGINE in error.message:
      raise  # Another process is lost, which has an error of its own.
    raise InputError(
        "TensorFlow lost its session ({}: {}); the same command resumes from "
        "what is saved in {}".format(
            type(error).__name__, error.message.split("\n")[0], output_dir)
    ) from error
  finally:
    monitored_session._PREEMPTION_ERRORS = recoverable


class SaverHook(tf1.train.CheckpointSaverHook):
  """Saves as the estimator does, but never over what the run resumes from.

  The estimator's hook saves at once when a run starts, in place: a kill at
  that moment would cost the newest checkpoint.
  """

  def __init__(self, folder: str, save_steps: int, first_step: int,
               is_writer: bool = True, wait: Callable[[], None] = lambda: None):
    """Prepares saving.

    Args:
      folder: of the checkpoints.
      save_steps: steps between two checkpoints.
      first_step: of the checkpoint that the run resumes from; 0 for none.
      is_writer: False saves nothing, but calls the listeners after the same
        steps as in the process that saves.
      wait: what is done between saving and the listeners.
    """
    super().__init__(folder, save_steps=save_steps,
                     listeners=[_WaitListener(wait)])
    self._first_step = first_step
    self._is_writer = is_writer

  def _save(self, session, step):
    if self._first_step and step == self._first_step:
      return False  # As the base: whether a listener asks for a stop.
    if self._is_writer:
      return super()._save(session, step)
    # A list, so that none of them is left out.
    return any([listener.after_save(session, step)  # noqa: C419
                for listener in self._listeners])


class _WaitListener(tf1.train.CheckpointSaverListener):
  """Waits after each checkpoint."""

  def __init__(self, wait: Callable[[], None]):
    self._wait = wait

  def after_save(self, session, global_step_value):
    self._wait()


class GroupHook(tf1.train.SessionRunHook):
  """Waits for all processes when a session starts and when it ends.

  Up to the end of its first step the engine may set up connections between
  GPUs, which takes minutes on many hosts and is no stall.
  """

  def __init__(self, group: Group):
    """Takes the processes that run the session together."""
    self._group = group

  def after_create_session(self, session, coord):
    self._group.barrier()
    self._group.liveness.is_connecting = True

  def after_run(self, run_context, run_values):
    self._group.liveness.is_connecting = False

  def end(self, session):
    self._group.liveness.is_connecting = False
    self._group.barrier()


class StopAtSignalHook(tf1.train.SessionRunHook):
  """Ends training after the step in which SIGTERM or Ctrl-C comes.

  The estimator then saves. A second signal ends the process at once.

  Of several processes all stop after the same step, the next one, whichever of
  them the signal reaches.

  Attributes:
    is_stopped: whether a signal has ended training.
  """

  def __init__(self, reduce_sum: Optional[
      Callable[[tf.Tensor, str], tf.Tensor]] = None):
    """Takes over the signals within a `with` block.

    Args:
      reduce_sum: returns the sum of a tensor over all processes; None where
        there is one.
    """
    self._reduce_sum = reduce_sum
    self._previous: Dict[int, Any] = {}
    self._is_asked = False
    self.is_stopped = False

  def __enter__(self):
    # Python handles signals only in its main thread.
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._receive)

  def __exit__(self, *unused_exception):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _receive(self, unused_number, unused_frame):
    self._is_asked = True
    self.__exit__()

  def begin(self):
    if self._reduce_sum:
      self._asks = tf1.placeholder(tf.float32, [])
      self._num_asking = self._reduce_sum(self._asks, "stop_at_signal")

  def before_run(self, run_context):
    if not self._reduce_sum:
      return None
    # Within the step: a collective of its own would cost each step a wait.
    return tf1.train.SessionRunArgs(
        self._num_asking, {self._asks: float(self._is_asked)})

  def after_run(self, run_context, run_values):
    if run_values.results if self._reduce_sum else self._is_asked:
      self.is_stopped = True
      run_context.request_stop()


class StopAtNonFiniteHook(tf1.train.SessionRunHook):
  """Stops training after a step whose gradients are NaN or infinite.

  It raises the error that the estimator raises where the loss is NaN.
  """

  def __init__(self, is_finite: tf.Tensor):
    """Prepares the check.

    Args:
      is_finite: bool, a scalar, of the step.
    """
    self._is_finite = is_finite

  def before_run(self, run_context):
    return tf1.train.SessionRunArgs(self._is_finite)

  def after_run(self, run_context, run_values):
    if not run_values.results:
      raise tf1.train.NanLossDuringTrainingError


class ProgressHook(tf1.train.SessionRunHook):
  """Shows step, loss, speed and the time left, and writes the curves.

  Progress is a bar on a terminal, else lines in the log. Each step computes the
  points of the curves, although few are written: TensorFlow would optimise one
  graph with them and another one without.

  Attributes:
    step: the steps done.
  """

  def __init__(self, num_steps: int, sequences_per_step: int,
               summary_folder: Optional[str]):
    """Prepares the display.

    Args:
      num_steps: the last step.
      sequences_per_step: of all processes together.
      summary_folder: where the curves of the speed and of all summaries are
        written; None shows and writes nothing.
    """
    self._num_steps = num_steps
    self._sequences_per_step = sequences_per_step
    self._summary_folder = summary_folder
    self.step = 0

  def begin(self):
    self._step = tf1.train.get_global_step()
    # On a TPU a run takes many steps, and the step is asked for after them.
    self._fetches = [tf1.get_collection(tf1.GraphKeys.LOSSES)[-1],
                     tf1.get_collection(STEP_AFTER)]
    if self._summary_folder:
      self._writer = tf1.summary.FileWriterCache.get(self._summary_folder)
      self._fetches.append(tf1.summary.merge_all())

  def after_create_session(self, session, coord):
    self.step = session.run(self._step)
    if self._summary_folder:
      # TensorBoard leaves out what a stopped run wrote of later steps.
      self._writer.add_session_log(
          tf1.SessionLog(status=tf1.SessionLog.START), self.step + 1)
    self._bar = tqdm.tqdm(
        total=self._num_steps, initial=self.step, unit=" steps",
        disable=None if self._summary_folder else True, dynamic_ncols=True)
    self._is_first = True
    self._logged_step, self._logged_time = self.step, time.monotonic()

  def before_run(self, run_context):
    return tf1.train.SessionRunArgs(self._fetches)

  def after_run(self, run_context, run_values):
    loss, step_after, *summaries = run_values.results
    self.step = (step_after[0] if step_after
                 else run_context.session.run(self._step))
    self._bar.set_postfix_str("loss {:.4f}, {:.1f} sequences/s".format(
        loss, (self._bar.format_dict["rate"] or 0) * self._sequences_per_step),
                              refresh=False)
    self._bar.update(self.step - self._bar.n)
    num_steps = self.step - self._logged_step
    is_logged = num_steps >= LOG_STEPS or self.step >= self._num_steps
    if is_logged or self._is_first:
      for summary in summaries:
        self._writer.add_summary(summary, self.step)
    self._is_first = False
    if is_logged:
      now = time.monotonic()
      speed = num_steps / max(now - self._logged_time, 1e-9)
      self._report(loss, speed)
      self._logged_step, self._logged_time = self.step, now

  def _report(self, loss: float, steps_per_second: float) -> None:
    """Writes a line of the log and a point of the curve of the speed."""
    sequences_per_second = steps_per_second * self._sequences_per_step
    if self._bar.disable:
      logging.info(
          "Step %d of %d: loss %.4f, %.1f sequences/s, %s left", self.step,
          self._num_steps, loss, sequences_per_second,
          tqdm.tqdm.format_interval(
              (self._num_steps - self.step) / max(steps_per_second, 1e-9)))
    if self._summary_folder:
      self._writer.add_summary(
          tf1.Summary(value=[tf1.Summary.Value(
              tag="sequences_per_second", simple_value=sequences_per_second)]),
          self.step)

  def end(self, session):
    self._bar.close()
    if self._summary_folder:
      self._writer.flush()
