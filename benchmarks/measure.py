"""Provides turns, medians, peers, limits and the machine to all benchmarks.

A benchmark is a script that times the project and its peers in turn and passes
its part of the results, a dictionary of rows and settings, to `finish`.
benchmarks/run.py runs all benchmarks and collects their parts.
"""

import contextlib
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import pstats
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import (Any, Callable, Dict, Iterator, List, Mapping, NamedTuple,
                    Optional, Sequence, Tuple)

from absl import flags
from absl import logging
import numpy as np

import report
from util import workers
from util.command_line import InputError

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Number of a profile's largest entries that are reported.
PROFILE_ENTRIES = 3
_COPIES = 5
# Size to which small files are repeated before they are copied.
COPIED_BYTES = 100 * 10**6
_PACKAGES = ("tensorflow", "numpy", "horovod", "google-crc32c")
# Runs in a new process, because a child's peak memory includes that of its
# parent at the start.
_LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
result = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime,
      usage.ru_maxrss)
sys.exit(result.returncode)
"""


def define_flags() -> None:
  """Defines the flags that all benchmarks have."""
  flags.DEFINE_integer("turns", 5, "Turns of each contender.", lower_bound=1)
  flags.DEFINE_string(
      "peers_python", None, "Python interpreter with the packages of "
      "benchmarks/peers.txt; without it, peers are reported as absent.")
  flags.DEFINE_string(
      "results_file", None,
      "JSON file for the results; without it, the results are printed.")


# --- Times -------------------------------------------------------------------


class Run(NamedTuple):
  """Time and memory of a command.

  Attributes:
    wall: wall time in seconds.
    processor: processor time of all processes in seconds.
    peak: peak memory of the largest process in bytes.
  """
  wall: float
  processor: float
  peak: int


def launch(command: Sequence[str]) -> Run:
  """Runs a command to its end and measures it.

  Raises:
    InputError: if the command fails.
  """
  launched = subprocess.run(
      [sys.executable, "-c", _LAUNCHER, *map(str, command)],
      stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
  if launched.returncode:
    raise _failure(command, launched.stderr)
  wall, processor, peak = launched.stdout.split()
  return Run(float(wall), float(processor), int(peak) << 10)


def _failure(command: Sequence[str], errors: str) -> InputError:
  return InputError("{} failed: {}".format(
      " ".join(os.path.basename(str(word)) for word in command[:3]),
      errors.strip()[-1000:] or "it printed nothing"))


def alternate(contenders: Mapping[str, Callable[[], float]], turns: int
             ) -> Dict[str, List[float]]:
  """Calls all contenders in turn, A B A B.

  Args:
    contenders: functions by name; each runs once and returns a figure.
    turns: number of calls of each contender.

  Returns:
    The figures of all turns, by name.
  """
  figures: Dict[str, List[float]] = {name: [] for name in contenders}
  for turn in range(turns):
    for name, run in contenders.items():
      figures[name].append(run())
    logging.debug("turn %d: %s", turn + 1, figures)
  return figures


def seconds_of(run: Callable[[], Any]) -> float:
  """Returns the wall time of a call in seconds."""
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


@contextlib.contextmanager
def new_processes() -> Iterator[Callable[..., Any]]:
  """Yields a function that calls another function in a new process."""
  with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
    yield lambda function, *arguments: pool.apply(function, arguments)


def peak_bytes() -> int:
  """Returns the peak memory of this process in bytes, without its parent's."""
  status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
  return int(re.search(r"VmHWM:\s*(\d+) kB", status).group(1)) << 10


def busy_seconds() -> float:
  """Returns the seconds that the cores have been busy, summed over cores."""
  with open("/proc/stat", encoding="ascii") as file:
    user, nice, system, _, _, interrupt, soft_interrupt = map(
        int, file.readline().split()[1:8])
  return (user + nice + system + interrupt + soft_interrupt) / os.sysconf(
      "SC_CLK_TCK")


# --- Peers -------------------------------------------------------------------


class Peer:
  """A worker of benchmarks/peers.py under the peers' interpreter.

  Attributes:
    description: name, version and settings of the peer, or name and the reason
      why the peer is absent.
    answer: the worker's answer of the last turn.
  """

  def __init__(self, python: Optional[str], name: str, kind: str,
               *arguments: str):
    """Starts the worker and waits until it is ready.

    Args:
      python: the peers' interpreter; with None or a missing file, the peer is
        absent.
      name: name of the peer, for tables.
      kind: subcommand of benchmarks/peers.py.
      *arguments: arguments of the subcommand.
    """
    self._process = None
    self.answer: Dict[str, Any] = {}
    self.description: Dict[str, Any] = {"name": name}
    if not python or not shutil.which(python):
      self.description["absent"] = "no interpreter for peers"
      return
    self._process = subprocess.Popen(
        peer_command(python, kind, *arguments), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    answer = self._read()
    self.description.update(answer)
    if self.is_absent:
      self.close()

  @property
  def is_absent(self) -> bool:
    """Whether the peer's interpreter or package is missing."""
    return "absent" in self.description

  def run(self) -> float:
    """Takes one turn and returns its seconds.

    Raises:
      InputError: if the worker has ended.
    """
    self._process.stdin.write("run\n")
    self._process.stdin.flush()
    self.answer = self._read()
    if "absent" in self.answer:
      raise InputError("--peers_python: {} failed: {}".format(
          self.description["name"], self.answer["absent"]))
    return self.answer["seconds"]

  def close(self) -> None:
    """Ends the worker."""
    if self._process:
      self._process.stdin.close()
      self._process.wait()
      self._process = None

  def _read(self) -> Dict[str, Any]:
    line = self._process.stdout.readline()
    if not line:
      return {"absent": "its worker ended with code {}".format(
          self._process.wait())}
    return json.loads(line)


def peer_command(python: str, kind: str, *arguments: str) -> List[str]:
  """Returns the command of a worker of benchmarks/peers.py."""
  return [python, str(ROOT / "benchmarks" / "peers.py"), kind,
          *map(str, arguments)]


def model_peers(stack: contextlib.ExitStack, python: Optional[str], kind: str,
                features: Mapping[str, np.ndarray], config_file: str,
                precisions: Sequence[str], batch_size: int, steps: int = 1
               ) -> Dict[str, Peer]:
  """Starts a worker of transformers for each precision.

  Args:
    stack: ends the workers when it is closed.
    python: the peers' interpreter.
    kind: "labels" or "training".
    features: features of the records that the workers read, arrays by name.
    config_file: path of the model's bert_config.json.
    precisions: "fp32" or "bf16", a worker for each.
    batch_size: sequences per batch.
    steps: training steps per turn.
  """
  folder = stack.enter_context(tempfile.TemporaryDirectory())
  path = os.path.join(folder, "features.npz")
  np.savez(path, **features)
  peers = {}
  for precision in precisions:
    peers[precision] = Peer(
        python, "transformers", kind, "--features", path, "--config",
        config_file, "--precision", precision, "--batch_size", batch_size,
        "--steps", steps, "--threads", workers.available_cores())
    stack.callback(peers[precision].close)
  return peers


# --- Limits ------------------------------------------------------------------


def copy_rate(path: pathlib.Path, num_bytes: int = 0) -> float:
  """Returns the median rate at which a file is copied, in bytes per second.

  Args:
    path: the file. The copy is written to the same folder.
    num_bytes: size to which the content of a smaller file is repeated first, so
      that opening the file does not dominate.
  """
  with tempfile.TemporaryDirectory(dir=path.parent) as folder:
    source, target = (pathlib.Path(folder, name) for name in ("from", "to"))
    data = path.read_bytes()
    with open(source, "wb") as file:
      file.write(data)
      while file.tell() < num_bytes:
        file.write(data)
    rates = []
    for _ in range(_COPIES):
      target.unlink(missing_ok=True)
      os.sync()
      rates.append(source.stat().st_size / seconds_of(
          lambda: shutil.copyfile(source, target)))
  return statistics.median(rates)


Shares = List[Tuple[str, float]]


def largest(seconds: Mapping[str, float],
            count: Optional[int] = PROFILE_ENTRIES) -> Shares:
  """Returns the largest entries of a profile and their shares of the total.

  Args:
    seconds: time of each entry, by name.
    count: number of entries; None for all.
  """
  total = sum(seconds.values())
  return sorted(((name, spent / total) for name, spent in seconds.items()),
                key=lambda entry: -entry[1])[:count]


def profile_script(*command: str) -> Shares:
  """Runs a Python script under cProfile.

  Args:
    *command: the script, or "-c" and code, then arguments.

  Returns:
    The functions with the largest own time, and their shares of the total.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "profile")
    code = _PROFILER if command[0] == "-c" else None
    words = (["-c", code, path, *command[1:]] if code else
             ["-m", "cProfile", "-o", path, *command])
    launch([sys.executable, *words])
    return profile_entries(pstats.Stats(path))


# Profiles code that is given as text like a script.
_PROFILER = """
import cProfile, sys
path, code, sys.argv[1:] = sys.argv[1], sys.argv[2], sys.argv[3:]
profile = cProfile.Profile()
try:
  profile.runctx(code, {"__name__": "__main__"}, {})
finally:
  profile.dump_stats(path)
"""


def profile_entries(stats: pstats.Stats) -> Shares:
  """Returns the largest entries of a profile of cProfile."""
  seconds: Dict[str, float] = {}
  for (file, _, function), entry in stats.stats.items():
    name = function if file == "~" else "{}:{}".format(
        os.path.basename(file), function)
    seconds[name] = seconds.get(name, 0.0) + entry[2]
  return largest(seconds)


# --- Parts -------------------------------------------------------------------


def row(what: str, unit: str, ours: Sequence[float],
        peer: Optional[Mapping[str, Any]] = None,
        theirs: Sequence[float] = (), limit: Optional[Tuple[str, float]] = None,
        rest: Shares = ()) -> Dict[str, Any]:
  """Returns a row of the results: a figure, its peer and its limit.

  Args:
    what: name of the figure.
    unit: unit of the figures; more is better.
    ours: the project's figures of all turns.
    peer: `Peer.description` of the peer.
    theirs: the peer's figures of all turns; empty if the peer is absent.
    limit: name and value of the figure's upper bound.
    rest: largest entries of the profile.
  """
  figure: Dict[str, Any] = {
      "what": what, "unit": unit, "ours": _summary(ours), "peer": None,
      "ratio": None, "limit": None, "share": None, "rest": list(rest)}
  if peer:
    figure["peer"] = dict(peer)
    if theirs:
      figure["peer"].update(_summary(theirs))
      figure["ratio"] = figure["ours"]["median"] / figure["peer"]["median"]
  if limit:
    figure["limit"] = {"what": limit[0], "value": limit[1]}
    figure["share"] = figure["ours"]["median"] / limit[1]
  return figure


def _summary(figures: Sequence[float]) -> Dict[str, Any]:
  return {"median": statistics.median(figures), "turns": list(figures)}


def finish(rows: Sequence[Mapping[str, Any]], settings: Sequence[str] = (),
           **more: Any) -> None:
  """Writes a part of the results to --results_file, or prints it as a table.

  Args:
    rows: results of `row`.
    settings: sentences that describe how the figures were measured.
    **more: other entries of the part.
  """
  part = {"rows": list(rows), "settings": list(settings), **more}
  if flags.FLAGS.results_file:
    pathlib.Path(flags.FLAGS.results_file).write_text(
        json.dumps(part), encoding="utf-8")
  else:
    sys.stdout.write("\n".join(report.part_lines(part)) + "\n")


def machine() -> Dict[str, Any]:
  """Returns a description of the machine and the versions of packages."""
  found = re.search(r"model name\s*:\s*(.*)", pathlib.Path(
      "/proc/cpuinfo").read_text(encoding="utf-8"))
  versions = {"Python": platform.python_version()}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[package] = importlib.metadata.version(package)
  return {
      "processor": found.group(1) if found else platform.processor(),
      "cores": workers.available_cores(),
      "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
      "system": "{} {}".format(platform.system(), platform.release()),
      "versions": versions}
