"""Fixtures of the fault tests: inputs, worlds and results of clean runs."""

import itertools
import shutil

import pytest

import fault_world


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
  """The folder with the inputs of all stages."""
  return fault_world.make_inputs(tmp_path_factory.mktemp("faults") / "inputs")


@pytest.fixture(scope="session")
def new_world(tmp_path_factory, inputs):
  """A function that makes a new world in a folder of a given name."""
  folder = tmp_path_factory.mktemp("worlds")
  counter = itertools.count()

  def make(name="world"):
    path = folder / str(next(counter)) / name
    shutil.copytree(inputs, path)
    return fault_world.World(path, inputs)

  return make


@pytest.fixture(scope="session")
def clean(new_world):
  """A function that returns the result of a clean run of a stage.

  The result is the SHA-256 of each output by path, or the value of `trained`.
  """
  made = {}

  def run(stage, changes=()):
    key = stage.script, *(tuple(sorted(map(str, dict(some).items())))
                          for some in (stage.flags, changes))
    if key not in made:
      world = new_world()
      outcome = world.run(stage, dict(changes))
      assert outcome.returncode == 0, outcome.stderr
      if stage.outputs:
        made[key] = fault_world.outputs(world, stage)
        assert set(made[key]) == set(stage.outputs)
      else:
        made[key] = fault_world.trained(world.out)
    return made[key]

  return run
