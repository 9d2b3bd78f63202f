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

# Graph collection of the global step as read after a training step.
STEP_AFTER = "step_after"
# Steps between two log lines, if no terminal shows the progress bar.
LOG_STEPS = 100


@contextlib.contextmanager
def without_recovery(output_dir: str) -> Iterator[None]:
  """Turns a lost session into an error instead of TensorFlow's recovery.

  TensorFlow's monitored sessions restart from the newest checkpoint after an
  AbortedError or UnavailableError, but their input pipeline does not: records
  would be skipped or repeated. Neither Estimator nor session has an option to
  disable recovery, so the block empties their private tuple of these errors.

  Args:
    output_dir: folder of the checkpoints, for the message.

  Raises:
    InputError: if the session is lost.
  """
  recoverable = monitored_session._PREEMPTION_ERRORS
  monitored_session._PREEMPTION_ERRORS = ()
  try:
    yield
  except recoverable as error:
    if ENGINE in error.message:
      raise  # `Group.errors` reports the lost process.
    raise InputError(
        "TensorFlow lost its session ({}: {}); the same command resumes from "
        "the newest checkpoint in {}".format(
            type(error).__name__, error.message.split("\n")[0], output_dir)
    ) from error
  finally:
    monitored_session._PREEMPTION_ERRORS = recoverable


class SaverHook(tf1.train.CheckpointSaverHook):
  """Saves checkpoints, but never overwrites the one that a run resumes from.

  The estimator's hook saves in place when a run starts: a kill at that moment
  would damage the newest checkpoint.
  """

  def __init__(self, folder: str, save_steps: int, first_step: int,
               is_writer: bool = True, wait: Callable[[], None] = lambda: None):
    """Initialises the hook.

    Args:
      folder: folder of the checkpoints.
      save_steps: steps between two checkpoints.
      first_step: step of the checkpoint that the run resumes from; 0 for none.
      is_writer: whether to save; otherwise the hook only calls the listeners,
        after the same steps.
      wait: called after each save, before the other listeners.
    """
    super().__init__(folder, save_steps=save_steps,
                     listeners=[_WaitListener(wait)])
    self._first_step = first_step
    self._is_writer = is_writer

  def _save(self, session, step):
    if self._first_step and step == self._first_step:
      return False  # No listener requests a stop.
    if self._is_writer:
      return super()._save(session, step)
    # any() would skip the other listeners of a generator after one is True.
    return any([listener.after_save(session, step)  # noqa: C419
                for listener in self._listeners])


class _WaitListener(tf1.train.CheckpointSaverListener):
  """Calls a function after each checkpoint."""

  def __init__(self, wait: Callable[[], None]):
    self._wait = wait

  def after_save(self, session, global_step_value):
    """Calls the function."""
    self._wait()


class GroupHook(tf1.train.SessionRunHook):
  """Waits for all processes when a session starts and when it ends.

  Until the end of the first step, the engine may set up connections between
  GPUs. This takes minutes on many hosts and must not count as a stall.
  """

  def __init__(self, group: Group):
    """Initialises the hook for the processes that run the session."""
    self._group = group

  def after_create_session(self, session, coord):
    """Waits for all processes; suspends the stall limit."""
    self._group.barrier()
    self._group.liveness.is_connecting = True

  def after_run(self, run_context, run_values):
    """Starts the stall limit."""
    self._group.liveness.is_connecting = False

  def end(self, session):
    """Waits for all processes."""
    self._group.liveness.is_connecting = False
    self._group.barrier()


class StopAtSignalHook(tf1.train.SessionRunHook):
  """Ends training after a step in which SIGTERM or Ctrl-C arrives.

  The estimator then saves a checkpoint. A second signal ends the process at
  once. If one of several processes receives the signal, all processes stop
  after the next step.

  Attributes:
    is_stopped: whether a signal has ended training.
  """

  def __init__(self, reduce_sum: Optional[
      Callable[[tf.Tensor, str], tf.Tensor]] = None):
    """Initialises the hook, which handles signals within a `with` block.

    Args:
      reduce_sum: returns the sum of a tensor over all processes; None for one
        process.
    """
    self._reduce_sum = reduce_sum
    self._previous_handlers: Dict[int, Any] = {}
    self._has_signal = False
    self.is_stopped = False

  def __enter__(self):
    # Python handles signals only in its main thread.
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous_handlers[number] = signal.signal(number, self._receive)

  def __exit__(self, *unused_exception):
    for number, handler in self._previous_handlers.items():
      signal.signal(number, handler)

  def _receive(self, unused_number, unused_frame):
    self._has_signal = True
    self.__exit__()

  def begin(self):
    """Builds the sum of signals over all processes."""
    if self._reduce_sum:
      self._own_signal = tf1.placeholder(tf.float32, [])
      self._num_signals = self._reduce_sum(self._own_signal, "stop_at_signal")

  def before_run(self, run_context):
    """Requests the sum of signals with the step."""
    if not self._reduce_sum:
      return None
    # Summed within the step: a separate collective would delay each step.
    return tf1.train.SessionRunArgs(
        self._num_signals, {self._own_signal: float(self._has_signal)})

  def after_run(self, run_context, run_values):
    """Stops training if any process has received a signal."""
    if run_values.results if self._reduce_sum else self._has_signal:
      self.is_stopped = True
      run_context.request_stop()


class StopAtNonFiniteHook(tf1.train.SessionRunHook):
  """Raises the estimator's error for a NaN loss if gradients are not finite."""

  def __init__(self, is_finite: tf.Tensor):
    """Initialises the hook.

    Args:
      is_finite: bool, a scalar: whether the step's gradients are finite.
    """
    self._is_finite = is_finite

  def before_run(self, run_context):
    """Requests whether the gradients are finite."""
    return tf1.train.SessionRunArgs(self._is_finite)

  def after_run(self, run_context, run_values):
    """Raises NanLossDuringTrainingError if the gradients are not finite."""
    if not run_values.results:
      raise tf1.train.NanLossDuringTrainingError


class ProgressHook(tf1.train.SessionRunHook):
  """Shows step, loss, throughput and time left, and writes the summaries.

  Shows a progress bar on a terminal, else writes log lines. Each step fetches
  the summaries, although few are written: TensorFlow would optimise a second
  graph for steps without summaries.

  Attributes:
    step: the number of steps done.
  """

  def __init__(self, num_steps: int, sequences_per_step: int,
               summary_folder: Optional[str]):
    """Initialises the hook.

    Args:
      num_steps: the last step.
      sequences_per_step: the global batch size.
      summary_folder: folder for the summaries; None shows and writes nothing.
    """
    self._num_steps = num_steps
    self._sequences_per_step = sequences_per_step
    self._summary_folder = summary_folder
    self.step = 0

  def begin(self):
    """Chooses the tensors to fetch with each step."""
    self._step = tf1.train.get_global_step()
    # On a TPU a run takes many steps; `after_run` reads the step in a run of
    # its own.
    self._fetches = [tf1.get_collection(tf1.GraphKeys.LOSSES)[-1],
                     tf1.get_collection(STEP_AFTER)]
    if self._summary_folder:
      self._writer = tf1.summary.FileWriterCache.get(self._summary_folder)
      self._fetches.append(tf1.summary.merge_all())

  def after_create_session(self, session, coord):
    """Reads the first step and opens the progress bar."""
    self.step = session.run(self._step)
    if self._summary_folder:
      # TensorBoard then drops later steps of an interrupted run.
      self._writer.add_session_log(
          tf1.SessionLog(status=tf1.SessionLog.START), self.step + 1)
    self._bar = tqdm.tqdm(
        total=self._num_steps, initial=self.step, unit=" steps",
        disable=None if self._summary_folder else True, dynamic_ncols=True)
    self._is_first = True
    self._logged_step, self._logged_time = self.step, time.monotonic()

  def before_run(self, run_context):
    """Requests loss, step and summaries."""
    return tf1.train.SessionRunArgs(self._fetches)

  def after_run(self, run_context, run_values):
    """Updates the bar; every LOG_STEPS steps, logs and writes summaries."""
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
    """Logs the progress and writes the throughput as a summary."""
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
    """Closes the bar and flushes the summaries."""
    self._bar.close()
    if self._summary_folder:
      self._writer.flush()
