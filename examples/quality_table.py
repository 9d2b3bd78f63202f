r"""Prints the table of examples/distillation_quality.sh, in Markdown.

  python examples/quality_table.py --folder quality --seeds '1 2 3'

The students' figures are means over the seeds ± standard deviations, from the
eval_results.txt of each run.
"""

import os
import pathlib
import statistics
import sys
from typing import List, Sequence

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import evaluation
from util import command_line
from util.command_line import InputError

_COLUMNS = {
    "accuracy": "masked_lm_accuracy",
    "cross entropy": "masked_lm_cross_entropy",
    "agreement with the teacher": "teacher_top1_agreement",
    "KL from the teacher": "kl_from_teacher",
    "calibration error": "expected_calibration_error",
}
# What a run's folder is called, by row; those of a student end in the seed.
_MODELS = {"teacher": "teacher", "student, as it starts": "start"}
_STUDENTS = {
    "only hard labels": "hard",
    "distilled, drop": "drop",
    "distilled, bucket": "bucket",
    "distilled, sampled tail": "sampled",
}


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("folder", None, "Where the runs are.")
  flags.DEFINE_spaceseplist(
      "seeds", ["1", "2", "3"], "Seeds of the students.")


def cells(folders: Sequence[str]) -> List[str]:
  """Returns the cells of a row.

  Args:
    folders: the runs to take the mean of.

  Raises:
    InputError: a run is missing or was not evaluated.
  """
  results = []
  for folder in folders:
    results.append(evaluation.read_results(
        os.path.join(folder, evaluation.RESULTS_FILE)))
    if not results[-1]:
      raise InputError("--folder: there is no {} in {}; run "
                       "examples/distillation_quality.sh first".format(
                           evaluation.RESULTS_FILE, folder))
  row = []
  for column in _COLUMNS.values():
    values = [result[column] for result in results]
    row.append("{:.4f}".format(statistics.mean(values)))
    if len(values) > 1:
      row[-1] += " ± {:.4f}".format(statistics.stdev(values))
  return row


def main() -> None:
  runs = {row: [name] for row, name in _MODELS.items()}
  runs.update({row: [name + "-" + seed for seed in flags.FLAGS.seeds]
               for row, name in _STUDENTS.items()})
  rows = [[row, *cells([os.path.join(flags.FLAGS.folder, name)
                        for name in names])] for row, names in runs.items()]
  lines = ["| {} |\n".format(" | ".join(row))
           for row in [["model", *_COLUMNS], *rows]]
  lines.insert(1, "|---" * (len(_COLUMNS) + 1) + "|\n")
  sys.stdout.write("".join(lines))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("folder",))
