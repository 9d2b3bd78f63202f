"""Tests of the training hooks, in a session that only counts steps."""

import logging
import os
import re
import signal
import threading

import pytest
import tensorflow as tf

from distillation import hooks
from util.command_line import InputError

tf1 = tf.compat.v1


def _count(num_steps, build_hooks, first_step=0):
  """Counts up to the last step, or until a hook requests a stop.

  Args:
    num_steps: number of the last step.
    build_hooks: returns the hooks; its argument is the tensor of the step
      number after the increment.
    first_step: step number before the first increment.

  Returns:
    The number of the last step taken.
  """
  with tf.Graph().as_default():
    step = tf1.get_variable(
        tf1.GraphKeys.GLOBAL_STEP, [], tf.int64,
        tf1.constant_initializer(first_step), trainable=False,
        collections=[tf1.GraphKeys.GLOBAL_VARIABLES,
                     tf1.GraphKeys.GLOBAL_STEP])
    tf1.add_to_collection(tf1.GraphKeys.LOSSES, tf.cast(step, tf.float32) / 2)
    add = step.assign_add(1)
    reached = first_step
    with tf1.train.SingularMonitoredSession(build_hooks(add)) as session:
      while reached < num_steps and not session.should_stop():
        reached = int(session.run(add))
    return reached


def _saved_steps(folder):
  return {int(re.search("[0-9]+", path.name).group())
          for path in folder.glob("model.ckpt-*.index")}


def test_a_run_saves_at_its_start_and_end_too(tmp_path):
  _count(7, lambda step: [hooks.SaverHook(str(tmp_path), 3, 0)])
  assert _saved_steps(tmp_path) == {0, 3, 6, 7}
  assert tf.train.latest_checkpoint(str(tmp_path)).endswith("model.ckpt-7")


def test_a_resumed_run_does_not_overwrite_its_checkpoint(tmp_path):
  index = tmp_path / "model.ckpt-3.index"
  index.write_text("the newest checkpoint")
  _count(7, lambda step: [hooks.SaverHook(str(tmp_path), 3, 3)], first_step=3)
  assert index.read_text() == "the newest checkpoint"
  assert _saved_steps(tmp_path) == {3, 6, 7}


class _SignalHook(tf1.train.SessionRunHook):
  """Sends this process a signal after each of some steps."""

  def __init__(self, number, steps):
    self._number = number
    self._steps = steps

  def before_run(self, run_context):
    return tf1.train.SessionRunArgs(tf1.train.get_global_step())

  def after_run(self, run_context, run_values):
    if run_context.session.run(tf1.train.get_global_step()) in self._steps:
      signal.raise_signal(self._number)


@pytest.fixture(name="received")
def _received():
  """Numbers of the signals that reach the handlers of this process."""
  received = []
  numbers = (signal.SIGTERM, signal.SIGINT)
  handlers = [signal.signal(number, lambda *found: received.append(found[0]))
              for number in numbers]
  yield received
  for number, handler in zip(numbers, handlers):
    signal.signal(number, handler)


def _alone(asks, unused_name):
  return tf.identity(asks)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("reduce_sum, steps, reached, num_received", [
    (None, {4}, 4, 0),
    # Several processes agree to stop in the next step.
    (_alone, {4}, 5, 0),
    # A second signal goes to the previous handler.
    (_alone, {4, 5}, 5, 1),
    (None, set(), 9, 0),
    # Another process got the signal.
    (lambda asks, name: asks + 1, set(), 1, 0),
])
def test_a_signal_ends_training_after_its_step(
    received, number, reduce_sum, steps, reached, num_received):
  stop = hooks.StopAtSignalHook(reduce_sum)
  with stop:
    # Hooks run in order: `stop` runs after the signal arrives.
    assert _count(9, lambda step: [_SignalHook(number, steps), stop]) == reached
  assert stop.is_stopped == (reached < 9)
  assert received == [number] * num_received
  signal.raise_signal(number)
  assert received == [number] * (num_received + 1)


def test_other_threads_install_no_signal_handlers(received):
  def run():
    with hooks.StopAtSignalHook():
      signal.raise_signal(signal.SIGTERM)

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert received == [signal.SIGTERM]


class _LosesSession(tf1.train.SessionRunHook):
  """Raises an error once, after the third step, as a lost device does."""

  def __init__(self, error):
    self._error, self._steps = error, 0

  def after_run(self, run_context, run_values):
    self._steps += 1
    if self._steps == 3:
      raise self._error


def _count_monitored(error):
  """Takes five steps in a session that recovers; returns their numbers."""
  steps = []
  with tf.Graph().as_default():
    step = tf1.train.get_or_create_global_step()
    add = step.assign_add(1)
    with tf1.train.MonitoredSession(hooks=[_LosesSession(error)]) as session:
      while len(steps) < 5:
        steps.append(int(session.run(add)))
  return steps


@pytest.mark.parametrize("error_type", [
    tf.errors.AbortedError, tf.errors.UnavailableError])
def test_a_lost_session_is_an_error(error_type):
  """Outside `without_recovery`, TensorFlow restarts from step 1."""
  error = error_type(None, None, "a worker was lost\nand more")
  assert _count_monitored(error) == [1, 2, 1, 2, 3]
  with pytest.raises(InputError, match=(
      error_type.__name__ + ": a worker was lost.*same command.*in /folder")):
    with hooks.without_recovery("/folder"):
      _count_monitored(error)
  assert _count_monitored(error) == [1, 2, 1, 2, 3]


def test_an_error_of_horovod_is_not_replaced():
  """`distillation.processes` reports which process is lost."""
  error = tf.errors.AbortedError(None, None, "Horovod has been shut down")
  with pytest.raises(tf.errors.AbortedError):
    with hooks.without_recovery("/folder"):
      _count_monitored(error)


def test_training_stops_at_a_non_finite_step():
  with pytest.raises(tf1.train.NanLossDuringTrainingError):
    _count(5, lambda step: [hooks.StopAtNonFiniteHook(step < 5)])
  assert _count(4, lambda step: [hooks.StopAtNonFiniteHook(step < 5)]) == 4


def test_progress_is_logged_and_written_for_tensorboard(tmp_path, caplog):
  progress = []

  def build_hooks(step):
    tf1.summary.scalar("twice_the_step", 2 * step)
    progress.append(hooks.ProgressHook(250, 4, str(tmp_path)))
    return progress

  with caplog.at_level(logging.INFO, "absl"):
    _count(250, build_hooks, first_step=20)
  assert progress[0].step == 250
  tf1.summary.FileWriterCache.clear()
  lines = [message for message in caplog.messages if "Step " in message]
  assert [re.match(
      r"Step (\d+) of 250: loss [\d.]+, [\d.]+ sequences/s, [\d:]+ left$",
      line).group(1) for line in lines] == ["120", "220", "250"]
  name, = os.listdir(tmp_path)
  events = list(tf1.train.summary_iterator(str(tmp_path / name)))
  points = {(value.tag, event.step): value.simple_value
            for event in events for value in event.summary.value}
  speeds = {step: speed for (tag, step), speed in points.items()
            if tag == "sequences_per_second"}
  assert set(speeds) == {120, 220, 250}
  assert min(speeds.values()) > 0
  assert {step: value for (tag, step), value in points.items()
          if tag == "twice_the_step"} == {21: 42, 120: 240, 220: 440, 250: 500}
  assert [event.step for event in events
          if event.session_log.status == tf1.SessionLog.START] == [21]


def test_progress_fetches_the_step_together_with_training(monkeypatch):
  """Only the step at which training starts needs a session run of its own."""
  steps, runs = [], []
  run = tf1.Session.run

  def count_runs(session, fetches, *arguments, **keywords):
    if getattr(fetches, "name", None) == "global_step:0":
      runs.append(fetches)
    return run(session, fetches, *arguments, **keywords)

  monkeypatch.setattr(tf1.Session, "run", count_runs)

  def build_hooks(step):
    tf1.add_to_collection(hooks.STEP_AFTER, step)
    progress = hooks.ProgressHook(7, 4, None)
    steps.append(progress)
    return [progress]

  _count(7, build_hooks)
  assert steps[0].step == 7
  assert len(runs) == 1
