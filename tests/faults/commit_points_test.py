"""Tests of runs that end before or after any call that commits files.

A point is just before or just after a call of os.fsync, os.remove, os.rename,
os.replace, os.rmdir or os.unlink in any process of the run. In the trainer,
calls of TensorFlow's functions that rename and remove, and of the saver, are
points too. One run ends at each point. Then no final name may hold a partially
written file, finished files must be intact, and the same command must make the
files of an uninterrupted run.
"""

from concurrent import futures
import os
import pathlib
import random
import re
import shutil
import signal
from typing import Any, Dict, Mapping

import pytest

import fault_world
import processes
from fault_world import STAGES

# The usual number of cores of a machine that runs the tests.
_RUNS_AT_A_TIME = 2
_LINE_BYTES = 160
_TRAINING = {"num_train_steps": 4, "save_checkpoints_steps": 2,
             "do_eval": True, "eval_every_checkpoint": True,
             "keep_checkpoint_max": 2, "max_eval_steps": 2}
_NUM_RANDOM_KILLS = 5
# TensorFlow's graphs, logs and temporary files, which no run reads.
_NOT_READ = re.compile(r"tfevents|^eval$|\.tmp|\.meta|^graph\.pbtxt|^\.lock$")


def _environment(world, **faults) -> Dict[str, str]:
  """Returns the variables that `faults.py` reads."""
  return {"FAULT_LOG": str(world.folder) + ".points",
          **{"FAULT_" + name.upper(): str(value)
             for name, value in faults.items()}}


def _points(world) -> int:
  """Returns the number of points that a run has passed."""
  return os.path.getsize(str(world.folder) + ".points") // _LINE_BYTES


def _check(world, stage, flags, wanted, older=None) -> None:
  """Checks the files of a run that was ended, and runs the command again.

  Args:
    world: world of the run.
    stage: stage that was run.
    flags: changes of the stage's flags.
    wanted: result of a clean run.
    older: hashes of the outputs that --overwrite was to replace; None without
      --overwrite.
  """
  if older is not None:
    for path, digest in fault_world.hashes(world.out).items():
      assert digest in (wanted["out/" + path], older.get(path)), path
    outcome = world.run(stage, flags)
    assert outcome.returncode == 0, outcome.stderr
    _assert_made(world, stage, wanted)
    return
  fault_world.assert_nothing_is_half_written(world, stage, wanted)
  finished = fault_world.outputs(world, stage)
  outcome = world.run(stage, flags)
  if finished and stage.name in ("extract_wikipedia.py", "extract_jsons.py"):
    # These scripts overwrite a finished output only with --overwrite.
    fault_world.assert_one_line(
        outcome, stage, ("exists already", "give another name or --overwrite"))
    outcome = world.run(stage, {**flags, "overwrite": True})
  assert outcome.returncode == 0, outcome.stderr
  if stage.outputs:
    assert finished.items() <= fault_world.outputs(world, stage).items()
    assert fault_world.outputs(world, stage) == wanted
    # No other file is left, hidden or not, except the manifest of a split.
    assert {str(path.relative_to(world.folder))
            for path in world.out.iterdir()
            if not path.name.endswith(".split.json")} == set(stage.outputs)
  else:
    found = fault_world.trained(world.out)
    # TensorFlow forgets a checkpoint whose removal was interrupted.
    forgotten = {name for name in set(found[0]) - set(wanted[0])
                 if name.startswith("model.ckpt-0.index:")}
    for name in forgotten:
      del found[0][name]
    fault_world.assert_same_training(found, wanted)


def _assert_made(world, stage, wanted) -> None:
  """Checks that the outputs are those of a clean run."""
  if stage.outputs:
    assert fault_world.outputs(world, stage) == wanted
  else:
    fault_world.assert_same_training(fault_world.trained(world.out), wanted)


def _in_parallel(function, items) -> None:
  """Calls a function with each item; raises the first exception."""
  with futures.ThreadPoolExecutor(_RUNS_AT_A_TIME) as pool:
    for _ in pool.map(function, items):
      pass


@pytest.mark.parametrize("name, action, flags", [
    ("split", "kill", {}), *(
        pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("extract", "kill", {}), ("jsons", "kill", {}),
            ("create", "kill", {}), ("create", "kill_all", {}),
            ("create", "kill_all", {"overwrite": True})))])
def test_a_run_may_end_at_any_point(name, action, flags, new_world, clean,
                                    record_property):
  stage = STAGES[name]
  wanted = clean(stage)
  counted = new_world()
  if flags:
    _leave_older_outputs(counted, stage)
  outcome = counted.run(stage, flags, environment=_environment(counted))
  assert outcome.returncode == 0, outcome.stderr
  _assert_made(counted, stage, wanted)
  num_points = _points(counted)
  record_property("message", "{} points".format(num_points))
  assert num_points > 5

  def end_at(point):
    world = new_world()
    older = _leave_older_outputs(world, stage) if flags else None
    outcome = world.run(stage, flags, environment=_environment(
        world, point=point, action=action))
    assert outcome.returncode, "point {} was not reached".format(point)
    if outcome.returncode == -signal.SIGKILL:
      assert not outcome.message
    else:  # A worker was killed, and the parent reports the error.
      fault_world.assert_one_line(
          outcome, stage, ("a worker was killed by signal 9",))
    _check(world, stage, flags, wanted, older)

  _in_parallel(end_at, range(1, num_points + 1))


def _leave_older_outputs(world, stage) -> Mapping[str, str]:
  """Writes outputs that --overwrite replaces; returns their hashes."""
  if stage.name == "multifile_create_pretraining_data.py":
    changes = {"random_seed": 7}
  else:
    changes = {"truncation_factor": 3}
  folder = world.inputs / ("out_older_" + stage.name)
  if not folder.exists():
    outcome = world.run(stage, changes)
    assert outcome.returncode == 0, outcome.stderr
    shutil.copytree(world.out, folder)
  else:
    shutil.rmtree(world.out)
    shutil.copytree(folder, world.out)
  return fault_world.hashes(world.out)


@pytest.mark.slow
@pytest.mark.parametrize("name, flags, least_points", [
    ("train", _TRAINING, 50), ("label_hidden", {}, 5),
    ("label", {"overwrite": True}, 5)])
def test_a_run_resumes_from_what_any_point_leaves(
    name, flags, least_points, new_world, clean, record_property):
  """Resumes from copies of the output folder, without a kill at each point.

  A copy at a point holds the files that a SIGKILL there would leave. Equal
  copies are tried once, because these stages take seconds to start.
  """
  stage = STAGES[name]
  wanted = clean(stage, flags)
  counted = new_world()
  older = (_leave_older_outputs(counted, stage) if "overwrite" in flags
           else None)
  snapshots = pathlib.Path(str(counted.folder) + ".snapshots")
  outcome = counted.run(stage, flags, environment=_environment(
      counted, snapshots=snapshots, output=counted.out))
  assert outcome.returncode == 0, outcome.stderr
  _assert_made(counted, stage, wanted)
  num_points = _points(counted)
  states: Dict[Any, pathlib.Path] = {}
  for snapshot in sorted(snapshots.iterdir()):
    states.setdefault(_state(snapshot), snapshot)
  record_property("message", "{} points, {} states".format(
      num_points, len(states)))
  assert num_points > least_points

  def resume_from(snapshot):
    world = new_world()
    shutil.rmtree(world.out)
    # The original path, because TensorFlow also writes absolute paths.
    shutil.copytree(snapshot, world.out, symlinks=True)
    _check(world, stage, flags, wanted, older)

  _in_parallel(resume_from, states.values())


def _state(folder):
  """Returns the paths and hashes of the files that a run reads, hashable."""
  return tuple(sorted(
      (str(path.relative_to(folder)),
       fault_world.sha256(path) if path.is_file() else None)
      for path in folder.rglob("*") if not _NOT_READ.search(path.name)))


@pytest.fixture(scope="module", name="counted_training")
def _counted_training(new_world):
  """The result of a whole run of the trainer, and the number of its points."""
  world = new_world()
  outcome = world.run(
      STAGES["train"], _TRAINING, environment=_environment(world))
  assert outcome.returncode == 0, outcome.stderr
  return fault_world.trained(world.out), _points(world)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(_NUM_RANDOM_KILLS))
def test_a_trainer_may_be_killed_at_any_moment(
    seed, new_world, counted_training):
  """Kills the trainer between points too: TensorFlow saves in C++ code."""
  stage = STAGES["train"]
  wanted, num_points = counted_training
  world = new_world()
  draws = random.Random(seed)
  # The trainer stops at a random point, continues, and is killed soon after.
  process = world.start(stage, _TRAINING, environment=_environment(
      world, point=draws.randint(1, num_points), action="stop"))
  stopped = pathlib.Path(str(world.folder) + ".points.stopped")
  processes.wait_until(
      lambda: stopped.exists() and processes.state(process.pid) == "T")
  os.kill(process.pid, signal.SIGCONT)
  number = _points(world) + draws.randrange(1, 8)
  processes.wait_until(lambda: _points(world) >= number
                       or not processes.is_running(process.pid))
  process.send(signal.SIGKILL)
  assert process.wait().returncode in (-signal.SIGKILL, 0)
  _check(world, stage, _TRAINING, wanted)
