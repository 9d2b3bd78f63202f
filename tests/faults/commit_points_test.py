"""Runs that end between any two calls that commit files.

A point is just before or just after a call of os.fsync, os.remove, os.rename,
os.replace, os.rmdir or os.unlink, in any process of the run; in the trainer,
also of TensorFlow's own functions that rename and remove, and of the saver.
The run is ended at each point in turn. Then no final name may hold a
half-written file, what was finished must be intact, and the same command must
make what an uninterrupted run makes.
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

# As many as there are usually cores to test with.
_RUNS_AT_A_TIME = 2
_LINE_BYTES = 160
_TRAINING = {"num_train_steps": 4, "save_checkpoints_steps": 2,
             "do_eval": True, "eval_every_checkpoint": True,
             "keep_checkpoint_max": 2, "max_eval_steps": 2}
_NUM_RANDOM_KILLS = 5
# Graphs, logs, and temporary files of TensorFlow.
_NOT_READ = re.compile(r"tfevents|^eval$|\.tmp|\.meta|^graph\.pbtxt|^\.lock$")


def _environment(world, **faults) -> Dict[str, str]:
  """Returns the variables that `faults.py` reads."""
  return {"FAULT_LOG": str(world.folder) + ".points",
          **{"FAULT_" + name.upper(): str(value)
             for name, value in faults.items()}}


def _points(world) -> int:
  """Returns how many points a run has passed."""
  return os.path.getsize(str(world.folder) + ".points") // _LINE_BYTES


def _check(world, stage, flags, wanted, older=None) -> None:
  """Checks what an ended run has left, and what the next one makes of it.

  Args:
    world: where it ran.
    stage: what ran.
    flags: with which values.
    wanted: what a clean run makes.
    older: hashes of what it was to replace; None where there was nothing.
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
    # It was finished at this point, and is never overwritten unasked.
    fault_world.assert_one_line(
        outcome, stage, ("exists already", "give another name or --overwrite"))
    outcome = world.run(stage, {**flags, "overwrite": True})
  assert outcome.returncode == 0, outcome.stderr
  if stage.outputs:
    assert finished.items() <= fault_world.outputs(world, stage).items()
    assert fault_world.outputs(world, stage) == wanted
    # Nothing else is left, hidden or not, but for the manifest of a split.
    assert {str(path.relative_to(world.folder))
            for path in world.out.iterdir()
            if not path.name.endswith(".split.json")} == set(stage.outputs)
  else:
    found = fault_world.trained(world.out)
    # TensorFlow forgets one that it was about to remove.
    forgotten = {name for name in set(found[0]) - set(wanted[0])
                 if name.startswith("model.ckpt-0.index:")}
    for name in forgotten:
      del found[0][name]
    fault_world.assert_same_training(found, wanted)


def _assert_made(world, stage, wanted) -> None:
  """Checks what an uninterrupted run has made."""
  if stage.outputs:
    assert fault_world.outputs(world, stage) == wanted
  else:
    fault_world.assert_same_training(fault_world.trained(world.out), wanted)


def _in_parallel(function, items) -> None:
  """Calls a function with each item, and raises what it raises."""
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
    else:  # Of a worker, which the parent outlives.
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
  """As above, for stages that take seconds to start.

  A copy of the output folder at a point is what a SIGKILL there would leave.
  Points that leave the same are tried once.
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
    # Where it was: TensorFlow writes absolute paths too.
    shutil.copytree(snapshot, world.out, symlinks=True)
    _check(world, stage, flags, wanted, older)

  _in_parallel(resume_from, states.values())


def _state(folder):
  """Returns what a folder holds of what a run reads, as something hashable."""
  return tuple(sorted(
      (str(path.relative_to(folder)),
       fault_world.sha256(path) if path.is_file() else None)
      for path in folder.rglob("*") if not _NOT_READ.search(path.name)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(_NUM_RANDOM_KILLS))
def test_a_trainer_may_be_killed_at_any_moment(seed, new_world, clean):
  """Kills it while it saves, which TensorFlow does in C++."""
  stage = STAGES["train"]
  wanted = clean(stage, _TRAINING)
  world = new_world()
  draws = random.Random(seed)
  # It stops just before it saves for the N-th time, or renames what it saved.
  process = world.start(stage, _TRAINING, environment=_environment(
      world, point=draws.randrange(1, 120), action="stop"))
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
