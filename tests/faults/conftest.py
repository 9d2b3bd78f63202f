"""Fixtures of the faults: a clean world, what runs make of it, copies."""

import collections
from concurrent import futures
import itertools
import shutil
import threading

import pytest

import fault_world


# As many runs at a time as there are usually cores to test with.
_RUNS_AT_A_TIME = 2


def pytest_configure(config):
  config.addinivalue_line(
      "markers", "ahead(check): what to do for a test, two at a time; the test "
      "waits for it with the fixture `checked`")


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory):
  """A process that runs scripts with TensorFlow imported."""
  server = fault_world.ForkServer(tmp_path_factory.mktemp("server"))
  yield server
  server.close()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
  """The inputs of all stages."""
  return fault_world.make_inputs(tmp_path_factory.mktemp("faults") / "inputs")


@pytest.fixture(scope="session")
def new_world(tmp_path_factory, fork_server, inputs):
  """A function that returns a world of its own, by a name."""
  folder = tmp_path_factory.mktemp("worlds")
  counter = itertools.count()

  def make(name="world"):
    path = folder / str(next(counter)) / name
    shutil.copytree(inputs, path)
    return fault_world.World(path, inputs, fork_server)

  return make


@pytest.fixture(scope="session")
def clean(new_world):
  """A function that returns what a clean run of a stage with flags makes.

  That is the SHA-256 of each output by path, or what `trained` returns.
  """
  made = {}
  locks = collections.defaultdict(threading.Lock)

  def run(stage, changes=()):
    key = stage.script, *(tuple(sorted(map(str, dict(some).items())))
                          for some in (stage.flags, changes))
    with locks[key]:
      return run_once(key, stage, changes)

  def run_once(key, stage, changes):
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


@pytest.fixture(scope="session")
def _checks(request, new_world, clean):
  """Starts what all selected tests wait for."""
  with futures.ThreadPoolExecutor(_RUNS_AT_A_TIME) as pool:
    checks = {}
    for item in request.session.items:
      mark = item.get_closest_marker("ahead")
      if mark:
        checks[item.nodeid] = pool.submit(
            mark.kwargs["check"], new_world, clean, **item.callspec.params)
    yield checks
    pool.shutdown(cancel_futures=True)


@pytest.fixture
def checked(request, _checks, record_property):
  """Waits for the check of a test; raises what it raised.

  What the check returns, a message, is kept in the report.
  """
  def wait():
    record_property("message", _checks[request.node.nodeid].result())

  return wait
