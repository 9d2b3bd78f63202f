"""Compares the time of split_text.py with that of cp on a large file.

  python benchmarks/split_text.py --folder split_benchmark

The file, by default 1 GB of synthetic documents, is written into the folder
first; at the end the folder is removed. Runs of the two alternate.
"""

import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
from typing import Sequence, Tuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# pylint: disable=wrong-import-position
from absl import flags

from util import command_line

FLAGS = flags.FLAGS

_DOCUMENTS = 2000
_SENTENCE = "the cat sat on the mat and looked at the dog that ran\n"
# In a process of its own, since a child's peak memory starts with its parent's.
_LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
print(time.perf_counter() - start,
      resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def define_flags() -> None:
  """Defines the flags of this benchmark."""
  flags.DEFINE_string("folder", None, "Folder to work in; it must not exist.")
  flags.DEFINE_integer(
      "megabytes", 1000, "Size of the file.", lower_bound=1)
  flags.DEFINE_integer(
      "split_number", 100, "Number of files to write.", lower_bound=1)
  flags.DEFINE_integer(
      "repetitions", 5, "Number of runs of each.", lower_bound=1)


def make_text(path: pathlib.Path, num_bytes: int) -> None:
  """Writes documents of random length until the size is reached."""
  rng = random.Random(0)
  text = "\n".join(_SENTENCE * rng.randint(1, 200) for _ in range(_DOCUMENTS))
  block = (text + "\n").encode()
  with open(path, "wb") as file:
    while file.tell() < num_bytes:
      file.write(block[:num_bytes - file.tell()])


def timed(command: Sequence[str], output: pathlib.Path) -> Tuple[float, int]:
  """Runs a command with an empty output folder.

  Returns:
    Its time in seconds and its peak memory in kB.
  """
  shutil.rmtree(output, ignore_errors=True)
  output.mkdir()
  os.sync()
  launched = subprocess.run([sys.executable, "-c", _LAUNCHER, *command],
                            check=True, stdout=subprocess.PIPE)
  elapsed, peak = launched.stdout.split()
  return float(elapsed), int(peak)


def run(folder: pathlib.Path, megabytes: int, split_number: int,
        repetitions: int) -> None:
  """Times both; prints the medians, their ratio and the peak memory."""
  text, output = folder / "text.txt", folder / "output"
  make_text(text, megabytes * 10**6)
  commands = {
      "cp": ["cp", str(text), str(output)],
      "split_text": [
          sys.executable, str(ROOT / "split_text.py"), "--read_file", str(text),
          "--split_number", str(split_number), "--folder", str(output),
          "--name_base", "part", "--verbosity=-1"],
  }
  seconds = {name: [] for name in commands}
  peak = 0
  for _ in range(repetitions):
    for name, command in commands.items():
      elapsed, memory = timed(command, output)
      seconds[name].append(elapsed)
      if name == "split_text":
        peak = max(peak, memory)
  copy, split = (statistics.median(seconds[name]) for name in commands)
  print("cp {:.2f} s ({:.2f} to {:.2f}), split_text.py {:.2f} s ({:.2f} to "
        "{:.2f}): {:.2f} times; peak memory {} MB".format(
            copy, min(seconds["cp"]), max(seconds["cp"]), split,
            min(seconds["split_text"]), max(seconds["split_text"]),
            split / copy, peak >> 10))


def main() -> None:
  folder = pathlib.Path(FLAGS.folder)
  folder.mkdir(parents=True)
  try:
    run(folder, FLAGS.megabytes, FLAGS.split_number, FLAGS.repetitions)
  finally:
    shutil.rmtree(folder)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("folder",))
