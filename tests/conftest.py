"""Fixtures and options that the tests share."""

import gc
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

import hypothesis
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_TENSORFLOW_VARIABLES = {name: value for name, value in os.environ.items()
                         if name.startswith("TF_")}
_STARTUP = ROOT / "tests" / "startup"
_FUZZ_INPUTS, _MORE_FUZZ_INPUTS = 2000, 100000


def pytest_addoption(parser):
  parser.addoption(
      "--fuzz", action="store_true",
      help="give each fuzz test {:,} inputs instead of {:,}".format(
          _MORE_FUZZ_INPUTS, _FUZZ_INPUTS))


def pytest_configure(config):
  """Makes fuzz tests reproducible; starts the fork servers and the summary."""
  # Hypothesis stores its Unicode tables there.
  os.environ.setdefault(
      "HYPOTHESIS_STORAGE_DIRECTORY",
      os.path.join(tempfile.gettempdir(), "hypothesis"))
  hypothesis.settings.register_profile(
      "fuzz", derandomize=True, database=None, deadline=None,
      max_examples=_MORE_FUZZ_INPUTS if config.getoption("--fuzz")
      else _FUZZ_INPUTS,
      suppress_health_check=list(hypothesis.HealthCheck))
  hypothesis.settings.load_profile("fuzz")
  config.addinivalue_line(
      "markers", "slow: left out unless it is asked for; CONTRIBUTING.md has "
      "the rule")
  if not hasattr(config, "workerinput"):
    config.add_cleanup(_start_fork_servers())
    config.pluginmanager.register(_Summary(config))


def _start_fork_servers():
  """Starts the fork servers of scripts; returns a function that ends them.

  All processes of pytest share the servers, which import packages on demand.
  """
  os.environ["PYTHONPATH"] = os.pathsep.join(
      [str(_STARTUP), *filter(None, [os.environ.get("PYTHONPATH")])])
  folder = tempfile.mkdtemp(prefix="fork_servers")
  servers = []
  for kind in ("tensorflow", "plain"):
    with socket.socket(socket.AF_UNIX) as listener:
      listener.bind(os.path.join(folder, kind))
      listener.listen()
      servers.append(subprocess.Popen(
          [sys.executable, str(_STARTUP / "fork_server.py"),
           str(listener.fileno()), kind],
          stdin=subprocess.PIPE, pass_fds=[listener.fileno()]))
  os.environ["FORK_SERVERS"] = folder

  def end():
    for server in servers:
      server.stdin.close()
      server.wait()
    shutil.rmtree(folder)

  return end


@pytest.fixture(autouse=True)
def _tensorflow_for_the_next_test():
  """Restores TF_ variables: scripts with other values are not forked."""
  yield
  tensorflow = sys.modules.get("tensorflow")
  assert not tensorflow or tensorflow.executing_eagerly(), "a graph is open"
  for name in [name for name in os.environ if name.startswith("TF_")]:
    if name not in _TENSORFLOW_VARIABLES:
      del os.environ[name]
  os.environ.update(_TENSORFLOW_VARIABLES)


def pytest_collection_finish():
  # Imported modules stay in memory. Otherwise the garbage collector scans them,
  # which takes a tenth of the time in which TensorFlow builds a graph.
  gc.collect()
  gc.freeze()


# --- The summary line --------------------------------------------------------

# Number of tests that the command line deselects, per process of pytest-xdist.
_NUM_DESELECTED = pytest.StashKey[int]()


def pytest_deselected(items):
  session = items[0].session
  session.stash[_NUM_DESELECTED] = (
      session.stash.get(_NUM_DESELECTED, 0) + len(items))


def pytest_sessionfinish(session):
  output = getattr(session.config, "workeroutput", None)
  if output is not None:
    output["num_deselected"] = session.stash.get(_NUM_DESELECTED, 0)


class _Summary:
  """Prints how many tests ran, were skipped or were left out, and why."""

  def __init__(self, config):
    self._config = config
    self._num_deselected = 0

  @pytest.hookimpl(optionalhook=True)
  def pytest_testnodedown(self, node):
    self._num_deselected = max(
        self._num_deselected,
        getattr(node, "workeroutput", {}).get("num_deselected", 0))

  def pytest_sessionfinish(self, session):
    self._num_deselected = max(
        self._num_deselected, session.stash.get(_NUM_DESELECTED, 0))

  def pytest_unconfigure(self):
    reporter = self._config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
      return
    count = {name: len(reporter.stats.get(name, ()))
             for name in ("passed", "failed", "error", "skipped")}
    words = ["ran {passed} tests that passed and {failed} that failed".format(
        **count)]
    if count["error"]:
      words.append("{error} could not run".format(**count))
    reasons = sorted({report.longrepr[2].replace("Skipped: ", "")
                      for report in reporter.stats.get("skipped", ())
                      if isinstance(report.longrepr, tuple)})
    words.append("skipped {}{}".format(
        count["skipped"], " ({})".format("; ".join(reasons)) if reasons
        else ""))
    if self._num_deselected:
      words.append("left out {}{}".format(
          self._num_deselected, " slow ones: ./run_tests.sh --all runs them"
          if self._config.option.markexpr == "not slow" else ""))
    reporter.write_line("; ".join(words))


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of real data and golden outputs beside the repository."""
  folder = pathlib.Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
  if not folder.is_dir():
    pytest.skip("there is no folder {} with real data; set SHARED_DIR".format(
        folder))
  return folder
