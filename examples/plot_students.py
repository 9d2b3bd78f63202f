r"""Draws how students get better over steps, and says how many steps are saved.

  python examples/plot_students.py \
    --results_file comparison/results.json --student 'small from scratch' \
    --output_file docs/steps.svg

results_file is what examples/compare_students.py writes. Each recipe that has
runs of several numbers of steps is a line: means over the seeds, with their
range. For each point of a recipe, the report has the steps that the baseline
needs to get there, between two of its points by the logarithm of steps.
"""

import json
import math
import os
import pathlib
import statistics
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from absl import flags
import matplotlib
import matplotlib.pyplot as plt

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from util import command_line
from util import files
from util.command_line import InputError

# By metric: what its axis says, and whether more is better.
_METRICS = {
    "masked_lm_accuracy": ("masked-LM accuracy, held out", True),
    "masked_lm_cross_entropy": ("masked-LM cross entropy, held out", False),
}


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string(
      "results_file", None, "results.json of examples/compare_students.py.")
  flags.DEFINE_string("student", None, "Name of the student in it.")
  flags.DEFINE_string(
      "baseline", "hard labels", "Recipe that the others are compared with.")
  flags.DEFINE_string(
      "output_file", None, "Picture to write: .svg, .png or .pdf.")


class Point(NamedTuple):
  """What a recipe reaches after some steps, over its seeds."""
  steps: int
  values: Sequence[float]

  @property
  def mean(self) -> float:
    return statistics.mean(self.values)


# Points of a recipe, by rising steps.
Curve = List[Point]


def curves(runs: Sequence[Dict[str, Any]], metric: str) -> Dict[str, Curve]:
  """Returns the curve of each recipe.

  Args:
    runs: those of one student, as results.json has them.
    metric: one of `_METRICS`.
  """
  values: Dict[str, Dict[int, List[float]]] = {}
  for run in runs:
    values.setdefault(run["recipe"], {}).setdefault(
        run["steps"], []).append(run["results"][metric])
  return {recipe: [Point(steps, by_steps[steps]) for steps in sorted(by_steps)]
          for recipe, by_steps in values.items()}


def steps_to_reach(curve: Curve, value: float, more_is_better: bool
                  ) -> Optional[float]:
  """Returns after how many steps a curve reaches a value.

  Args:
    curve: the points.
    value: what to reach.
    more_is_better: whether values above it are better ones.

  Returns:
    None where it is reached before the first point, or not at all.
  """
  sign = 1 if more_is_better else -1
  for before, after in zip(curve, curve[1:]):
    low, high = sign * before.mean, sign * after.mean
    if low <= sign * value <= high:
      share = (sign * value - low) / (high - low) if high > low else 0.0
      return math.exp(math.log(before.steps) + share * (
          math.log(after.steps) - math.log(before.steps)))
  return None


def report(all_curves: Dict[str, Curve], baseline: str, metric: str) -> str:
  """Returns a line for each point of the recipes but the baseline."""
  more_is_better = _METRICS[metric][1]
  lines = []
  for recipe, curve in all_curves.items():
    if recipe == baseline:
      continue
    for point in curve:
      steps = steps_to_reach(all_curves[baseline], point.mean, more_is_better)
      lines.append("{}, {:,} steps: {} {:.4f}; {} {}".format(
          recipe, point.steps, metric, point.mean, baseline,
          "needs {:,.0f} steps, {:.1f} times as many".format(
              steps, steps / point.steps) if steps else
          "has no points on both sides of it"))
  return "".join(line + "\n" for line in lines)


def draw(student: str, by_metric: Dict[str, Dict[str, Curve]], path: str
        ) -> None:
  """Draws a panel for each metric, a line for each recipe."""
  matplotlib.rcParams["svg.hashsalt"] = student  # The same bytes in each run.
  figure, panels = plt.subplots(
      1, len(by_metric), figsize=(10, 4), layout="constrained")
  for panel, (metric, all_curves) in zip(panels, by_metric.items()):
    for recipe, curve in all_curves.items():
      if len(curve) < 2:
        continue
      steps = [point.steps for point in curve]
      line, = panel.plot(steps, [point.mean for point in curve], marker="o",
                         label=recipe)
      panel.fill_between(
          steps, [min(point.values) for point in curve],
          [max(point.values) for point in curve], color=line.get_color(),
          alpha=0.2, linewidth=0)
    panel.set_xscale("log")
    ticks = sorted({point.steps for curve in all_curves.values()
                    for point in curve})
    panel.set_xticks(ticks, ["{:,}".format(tick) for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel("training steps")
    panel.set_ylabel(_METRICS[metric][0])
    panel.grid(alpha=0.3)
  panels[0].legend()
  figure.suptitle(student)
  partial = files.partial_path(path)
  kind = os.path.splitext(path)[1][1:]
  figure.savefig(partial, format=kind,
                 metadata={"Date": None} if kind == "svg" else None)
  os.replace(partial, path)


def main() -> None:
  path, student = flags.FLAGS.results_file, flags.FLAGS.student
  baseline, output_file = flags.FLAGS.baseline, flags.FLAGS.output_file
  if os.path.splitext(output_file)[1] not in (".svg", ".png", ".pdf"):
    raise InputError("--output_file={} must end in .svg, .png or .pdf".format(
        output_file))
  files.check_file(path, "results_file")
  try:
    with open(path, encoding="utf-8") as file:
      all_runs = json.load(file)["runs"]
  except (ValueError, KeyError, TypeError):
    raise InputError("--results_file={} is no results.json of "
                     "examples/compare_students.py".format(path)) from None
  runs = [run for run in all_runs if run["student"] == student]
  for flag, name, known in (
      ("student", student, {run["student"] for run in all_runs}),
      ("baseline", baseline, {run["recipe"] for run in runs})):
    if name not in known:
      raise InputError("--{}={} is not in {}, which has {}".format(
          flag, name, path, ", ".join(sorted(known)) or "no runs"))
  by_metric = {metric: curves(runs, metric) for metric in _METRICS}
  os.makedirs(os.path.dirname(output_file) or ".", exist_ok=True)
  draw(student, by_metric, output_file)
  for metric, all_curves in by_metric.items():
    sys.stdout.write(report(all_curves, baseline, metric))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("results_file", "student", "output_file"))
