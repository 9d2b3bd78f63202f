"""What the benchmarks share: turns, medians, peers, limits and the machine.

A benchmark is a script that times the project and its peers in turn and hands a
part over, a dictionary of rows and settings, to `finish`. benchmarks/run.py
starts all of them and keeps their parts.
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
# The largest entries of a profile that are told.
PROFILE_ENTRIES = 3
_COPIES = 5
# Small files are repeated to this size before they are copied.
COPIED_BYTES = 100 * 10**6
_PACKAGES = ("tensorflow", "numpy", "horovod", "google-crc32c")
# In a process of its own, since a child's peak memory starts with its parent's.
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
  """Defines the flags that every part has."""
  flags.DEFINE_integer("turns", 5, "How often to time each.", lower_bound=1)
  flags.DEFINE_string(
      "peers_python", None, "Interpreter that has the packages of "
      "benchmarks/peers.txt; a peer without one is said to be absent.")
  flags.DEFINE_string(
      "results_file", None, "JSON file to write; printed as a table without.")


# --- Times -------------------------------------------------------------------


class Run(NamedTuple):
  """What a command took.

  Attributes:
    wall: seconds.
    processor: seconds of processor time of all its processes.
    peak: memory of the largest of them, bytes.
  """
  wall: float
  processor: float
  peak: int


def launch(command: Sequence[str]) -> Run:
  """Runs a command to its end and measures it.

  Raises:
    InputError: it failed.
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
    contenders: by name, what runs once and returns a figure.
    turns: how often each runs.

  Returns:
    The figures by name, one for each turn.
  """
  figures: Dict[str, List[float]] = {name: [] for name in contenders}
  for turn in range(turns):
    for name, run in contenders.items():
      figures[name].append(run())
    logging.debug("turn %d: %s", turn + 1, figures)
  return figures


def seconds_of(run: Callable[[], Any]) -> float:
  """Returns the seconds that a call takes."""
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


@contextlib.contextmanager
def new_processes() -> Iterator[Callable[..., Any]]:
  """Gives a function that calls functions, each in a new process."""
  with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
    yield lambda function, *arguments: pool.apply(function, arguments)


def peak_bytes() -> int:
  """Returns the peak memory of this process, its parent's not included."""
  status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
  return int(re.search(r"VmHWM:\s*(\d+) kB", status).group(1)) << 10


def busy_seconds() -> float:
  """Returns the time that the cores have been busy, added up."""
  with open("/proc/stat", encoding="ascii") as file:
    user, nice, system, _, _, interrupt, soft_interrupt = map(
        int, file.readline().split()[1:8])
  return (user + nice + system + interrupt + soft_interrupt) / os.sysconf(
      "SC_CLK_TCK")


# --- Peers -------------------------------------------------------------------


class Peer:
  """A worker of benchmarks/peers.py under the peers' own interpreter.

  Attributes:
    description: what it says of itself: name, version and settings, or name
      and why it is absent.
    answer: what it said of its last turn.
  """

  def __init__(self, python: Optional[str], name: str, kind: str,
               *arguments: str):
    """Starts it, and waits until it is ready.

    Args:
      python: its interpreter; None or one that is missing makes it absent.
      name: its name, for tables.
      kind: the subcommand of benchmarks/peers.py.
      *arguments: of the subcommand.
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
    return "absent" in self.description

  def run(self) -> float:
    """Takes one turn; returns its seconds.

    Raises:
      InputError: it has ended.
    """
    self._process.stdin.write("run\n")
    self._process.stdin.flush()
    self.answer = self._read()
    if "absent" in self.answer:
      raise InputError("--peers_python: {} failed, as {}".format(
          self.description["name"], self.answer["absent"]))
    return self.answer["seconds"]

  def close(self) -> None:
    """Ends it."""
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
    stack: ends them.
    python: their interpreter.
    kind: labels or training.
    features: of the records that they read, arrays by name.
    config_file: bert_config.json.
    precisions: fp32 or bf16.
    batch_size: sequences in a batch.
    steps: of training in a turn.
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
  """Measures how many bytes of a file the machine copies in a second.

  Args:
    path: the file; its copy is written beside it.
    num_bytes: the size up to which its bytes are repeated first, so that small
      files are not only their opening.
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
  """Returns the largest entries of a profile and their shares of it.

  Args:
    seconds: by name.
    count: how many entries; None for all.
  """
  total = sum(seconds.values())
  return sorted(((name, spent / total) for name, spent in seconds.items()),
                key=lambda entry: -entry[1])[:count]


def profile_script(*command: str) -> Shares:
  """Runs a Python script under cProfile.

  Args:
    *command: the script, or -c and code, and its arguments.

  Returns:
    The functions with the most time of their own, and their shares.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "profile")
    code = _PROFILER if command[0] == "-c" else None
    words = (["-c", code, path, *command[1:]] if code else
             ["-m", "cProfile", "-o", path, *command])
    launch([sys.executable, *words])
    return profile_entries(pstats.Stats(path))


# Code that is given as text, profiled as a script is.
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
  """Returns the largest entries of what cProfile has found."""
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
  """Describes a figure beside its peer and its limit.

  Args:
    what: is measured.
    unit: of the figures; more is better.
    ours: the project's figures, one for each turn.
    peer: a `Peer.description`.
    theirs: the peer's figures; none where it is absent.
    limit: what bounds the figure, and at which value.
    rest: the profile's largest entries.
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
  """Hands a part over: to the file of --results_file, or as a table.

  Args:
    rows: as `row` makes them.
    settings: sentences that say how the figures were taken.
    **more: other entries of the part.
  """
  part = {"rows": list(rows), "settings": list(settings), **more}
  if flags.FLAGS.results_file:
    pathlib.Path(flags.FLAGS.results_file).write_text(
        json.dumps(part), encoding="utf-8")
  else:
    sys.stdout.write("\n".join(report.part_lines(part)) + "\n")


def machine() -> Dict[str, Any]:
  """Describes the machine and the versions."""
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
