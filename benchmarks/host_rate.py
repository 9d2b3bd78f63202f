r"""Measures how fast stage IV reads and writes beside a teacher without cost.

  git worktree add ../before COMMIT
  python benchmarks/host_rate.py --input_file 'masked_*.tfrecord' \
    --other ../before

A GPU reads thousands of sequences a second, and the host must keep up. Here the
teacher's answers are constants, so that the rate is the host's: top-k entries
of 10 tokens of which 9 are sampled, the same in compact records, and hidden
states of 768 units. With --other the two versions take turns, A B A B, and the
script compares the bytes of their outputs. With --device_rate the answers take
as long as those of a device of that rate; the share of the time in the teacher
then tells how busy the device is.
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from typing import Callable, Dict, Tuple

if __name__ == "__main__":  # TensorFlow reads it once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags

from distillation import checkpoints
import measure
import modeling
from records import input_pipeline
import teacher_memory
from util import command_line
from util import files
from util.command_line import InputError

FLAGS = flags.FLAGS

_MODES = {
    "example": ("--tail_samples", "9"),
    "compact": ("--tail_samples", "9", "--record_format", "compact"),
    "hidden": ("--label_format", "hidden"),
}
# Its size sets that of the hidden states alone.
_CONFIG = modeling.BertConfig(
    vocab_size=30522, hidden_size=768, num_hidden_layers=1,
    num_attention_heads=12, intermediate_size=64)
_RATE = re.compile(
    r"sequences at ([0-9.]+) a second, ([0-9]+)% of the time in the teacher")


def define_flags() -> None:
  """Defines the flags of the script."""
  measure.define_flags()
  flags.DEFINE_string("input_file", None, "Masked records.")
  flags.DEFINE_string("other", None, "Folder of another checkout.")
  flags.DEFINE_list("modes", list(_MODES), "Labels to write: {}.".format(
      ", ".join(_MODES)))
  flags.DEFINE_integer("batch_size", 256, "Sequences in a batch.")
  flags.DEFINE_float(
      "device_rate", 0.0, "Sequences a second of the device; 0 is a device "
      "that takes no time.", lower_bound=0.0)
  input_pipeline.define_flags()


def label(checkout: str, mode: str, folder: str) -> Tuple[float, float]:
  """Labels the records with the code of a checkout.

  Args:
    checkout: its folder.
    mode: a name in `_MODES`.
    folder: of the teacher; the output goes to a folder in it.

  Returns:
    Sequences per second, and the percentage of the time in the teacher.

  Raises:
    InputError: it failed.
  """
  done = subprocess.run(
      [sys.executable, str(ROOT / "benchmarks" / "fixed_answers.py"),
       "--bert_config_file", os.path.join(folder, checkpoints.CONFIG_FILE),
       "--init_checkpoint", os.path.join(folder, checkpoints.CHECKPOINT_FILE),
       "--input_file", FLAGS.input_file, "--output_file",
       output_file(folder, checkout), "--overwrite",
       "--batch_size", str(FLAGS.batch_size),
       "--max_seq_length", str(FLAGS.max_seq_length),
       "--max_predictions_per_seq", str(FLAGS.max_predictions_per_seq),
       "--device_rate", str(FLAGS.device_rate), *_MODES[mode]],
      env={**os.environ, "PYTHONPATH": checkout}, stdin=subprocess.DEVNULL,
      capture_output=True, text=True, check=False)
  found = _RATE.search(done.stderr)
  if done.returncode or not found:
    raise InputError("stage IV of {} failed: {}".format(
        checkout, done.stderr.strip()[-1000:]))
  return float(found.group(1)), float(found.group(2))


def output_file(folder: str, checkout: str) -> str:
  """Returns where the labels of a checkout go, by their name."""
  return os.path.join(folder, "this" if checkout == str(ROOT) else "other",
                      "labelled.tfrecord")


def compare(mode: str, folder: str) -> None:
  """Times a mode, and prints its figures."""
  checkouts = [str(ROOT)]
  if FLAGS.other:
    checkouts.append(os.path.abspath(FLAGS.other))
  shares: Dict[str, float] = {}

  def timed(checkout: str) -> Callable[[], float]:
    def run() -> float:
      rate, shares[checkout] = label(checkout, mode, folder)
      return rate
    return run

  figures = measure.alternate(
      {checkout: timed(checkout) for checkout in checkouts}, FLAGS.turns)
  medians = [statistics.median(rates) for rates in figures.values()]
  line = "{}: {:,.0f} sequences/s, {:.0f}% of the time in the teacher".format(
      mode, medians[0], shares[checkouts[0]])
  if FLAGS.other:
    outputs = {files.fingerprint(output_file(folder, checkout))
               for checkout in checkouts}
    line += "; the other version {:,.0f}, {:.0f}%; ratio {:.2f}, {}".format(
        medians[1], shares[checkouts[1]], medians[0] / medians[1],
        "the same bytes" if len(outputs) == 1 else "OTHER BYTES")
  sys.stdout.write("{} {}\n".format(line, list(figures.values())))


def main() -> None:
  for mode in FLAGS.modes:
    if mode not in _MODES:
      raise InputError("--modes={}: there is no such mode; name some of {}"
                       .format(mode, ", ".join(_MODES)))
  with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, checkpoints.CONFIG_FILE).write_text(
        _CONFIG.to_json_string(), encoding="utf-8")
    teacher_memory.write_random_checkpoint(
        _CONFIG, os.path.join(folder, checkpoints.CHECKPOINT_FILE))
    for mode in FLAGS.modes:
      compare(mode, folder)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file",))
