"""Session hooks of training: progress, saving, signals, non-finite loss."""

import signal
import threading
import time
from typing import Optional

from absl import logging
import tensorflow as tf
import tqdm

tf1 = tf.compat.v1

# Steps between two lines of the log, where no terminal shows the bar.
LOG_STEPS = 100


class SaverHook(tf1.train.CheckpointSaverHook):
  """Saves as the estimator does, but never over what the run resumes from.

  The estimator's hook saves at once when a run starts, in place: a kill at
  that moment would cost the newest checkpoint.
  """

  def __init__(self, folder: str, save_steps: int, first_step: int):
    """Prepares saving.

    Args:
      folder: of the checkpoints.
      save_steps: steps between two checkpoints.
      first_step: of the checkpoint that the run resumes from; 0 for none.
    """
    super().__init__(folder, save_steps=save_steps)
    self._first_step = first_step

  def _save(self, session, step):
    if self._first_step and step == self._first_step:
      return False  # As the base: whether a listener asks for a stop.
    return super()._save(session, step)


class StopAtSignalHook(tf1.train.SessionRunHook):
  """Ends training after the step in which SIGTERM or Ctrl-C comes.

  The estimator then saves. A second signal ends the process at once.

  Attributes:
    signal: the number of the signal that came, None before.
  """

  def __init__(self, stops: bool):
    """Takes over the signals within a `with` block.

    Args:
      stops: False lets a process that saves nothing continue, until the one
        that saves ends it.
    """
    self._stops = stops
    self._previous = {}
    self.signal: Optional[int] = None

  def __enter__(self):
    # Python handles signals only in its main thread.
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._receive)

  def __exit__(self, *unused_exception):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _receive(self, number, unused_frame):
    self.signal = number
    self.__exit__()

  def after_run(self, run_context, run_values):
    if self.signal is not None and self._stops:
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
  """Shows step, loss, speed and the time left.

  That is a bar on a terminal, else lines in the log; and a curve of the speed.

  Attributes:
    step: the steps done.
  """

  def __init__(self, num_steps: int, sequences_per_step: int,
               summary_folder: Optional[str]):
    """Prepares the display.

    Args:
      num_steps: the last step.
      sequences_per_step: of all processes together.
      summary_folder: where the curve is written; None shows nothing.
    """
    self._num_steps = num_steps
    self._sequences_per_step = sequences_per_step
    self._summary_folder = summary_folder
    self.step = 0

  def begin(self):
    self._step = tf1.train.get_global_step()
    self._loss = tf1.get_collection(tf1.GraphKeys.LOSSES)[-1]

  def after_create_session(self, session, coord):
    self.step = session.run(self._step)
    self._bar = tqdm.tqdm(
        total=self._num_steps, initial=self.step, unit=" steps",
        disable=None if self._summary_folder else True, dynamic_ncols=True)
    self._logged_step, self._logged_time = self.step, time.monotonic()

  def before_run(self, run_context):
    return tf1.train.SessionRunArgs(self._loss)

  def after_run(self, run_context, run_values):
    loss = run_values.results
    self.step = run_context.session.run(self._step)
    self._bar.set_postfix_str("loss {:.4f}, {:.1f} sequences/s".format(
        loss, (self._bar.format_dict["rate"] or 0) * self._sequences_per_step),
                              refresh=False)
    self._bar.update(self.step - self._bar.n)
    num_steps = self.step - self._logged_step
    if num_steps >= LOG_STEPS or self.step >= self._num_steps:
      now = time.monotonic()
      speed = num_steps / max(now - self._logged_time, 1e-9)
      self._report(loss, speed)
      self._logged_step, self._logged_time = self.step, now

  def _report(self, loss: float, steps_per_second: float) -> None:
    """Writes a line of the log and a point of the curve."""
    sequences_per_second = steps_per_second * self._sequences_per_step
    if self._bar.disable:
      logging.info(
          "Step %d of %d: loss %.4f, %.1f sequences/s, %s left", self.step,
          self._num_steps, loss, sequences_per_second,
          tqdm.tqdm.format_interval(
              (self._num_steps - self.step) / max(steps_per_second, 1e-9)))
    if self._summary_folder:
      tf1.summary.FileWriterCache.get(self._summary_folder).add_summary(
          tf1.Summary(value=[tf1.Summary.Value(
              tag="sequences_per_second", simple_value=sequences_per_second)]),
          self.step)

  def end(self, session):
    self._bar.close()
