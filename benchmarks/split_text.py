"""Times split_text.py against cp on a large file.

  python benchmarks/split_text.py --folder split_benchmark

The benchmark writes the file, by default 500 MB of synthetic documents, to the
folder, and removes the folder at the end.
"""

import os
import pathlib
import random
import shutil
import sys
from typing import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# pylint: disable=wrong-import-position
from absl import flags

import measure
from util import command_line

FLAGS = flags.FLAGS

_DOCUMENTS = 2000
_SENTENCE = "the cat sat on the mat and looked at the dog that ran\n"


def define_flags() -> None:
  measure.define_flags()
  flags.DEFINE_string(
      "folder", None, "Folder for temporary files, which must not exist.")
  flags.DEFINE_integer("megabytes", 500, "Size of the file.", lower_bound=1)
  flags.DEFINE_integer(
      "split_number", 100, "Number of files to write.", lower_bound=1)


def make_text(path: pathlib.Path, num_bytes: int) -> None:
  """Writes documents of random length until the size is reached."""
  rng = random.Random(0)
  text = "\n".join(_SENTENCE * rng.randint(1, 200) for _ in range(_DOCUMENTS))
  block = (text + "\n").encode()
  with open(path, "wb") as file:
    while file.tell() < num_bytes:
      file.write(block[:num_bytes - file.tell()])


def run(folder: pathlib.Path, megabytes: int, split_number: int, turns: int
       ) -> None:
  """Times both contenders and reports their rates."""
  text, output = folder / "text.txt", folder / "output"
  make_text(text, megabytes * 10**6)
  script = [ROOT / "split_text.py", "--read_file", text, "--split_number",
            split_number, "--folder", output, "--name_base", "part",
            "--verbosity=-1"]
  peaks = []

  def rate(command: Sequence[str]) -> float:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    os.sync()
    launched = measure.launch(command)
    peaks.append(launched.peak)
    return megabytes / launched.wall

  rates = measure.alternate({
      "cp": lambda: rate(["cp", text, output]),
      "split_text": lambda: rate([sys.executable, *script])}, turns)
  shutil.rmtree(output)
  limit = measure.copy_rate(text) / 1e6
  output.mkdir()
  measure.finish([measure.row(
      "split_text.py", "MB/s of text", rates["split_text"],
      {"name": "cp", "version": "", "settings": "copies the same file"},
      rates["cp"], ("bytes copied", limit),
      measure.profile_script(*script))], [
          "{:,} MB of documents into {} files, start-up of the process "
          "included; peak memory {:.0f} MB.".format(
              megabytes, split_number, max(peaks) / 1e6)])


def main() -> None:
  folder = pathlib.Path(FLAGS.folder)
  folder.mkdir(parents=True)
  try:
    run(folder, FLAGS.megabytes, FLAGS.split_number, FLAGS.turns)
  finally:
    shutil.rmtree(folder)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("folder",))
