r"""Draws what runs have measured.

How models that are being trained get better on held-out records, from what a
trainer with --eval_every_checkpoint has written for TensorBoard, beside models
that only have an eval_results.txt:

  python examples/plot_results.py \
    --runs 'with the teacher=distilled,without=hard_labels' \
    --references 'teacher=teacher_evaluation' --output_file curves.svg

From the results.json of examples/compare_students.py: how students get better
with longer trainings, and how many steps a recipe saves; or how good they are
with labels of other sizes.

  python examples/plot_results.py \
    --results_file comparison/results.json --student 'small from scratch' \
    --output_file steps.svg
  python examples/plot_results.py \
    --results_file comparison/results.json --student 'layers 0, 2, 4' \
    --label_bytes True --output_file labels.svg

From the results.json of benchmarks/run.py: how much faster the project is than
its peers.

  python examples/plot_results.py \
    --benchmarks_file benchmarks/results.json --output_file peers.svg

Lines are means over the seeds, with their range. In the report of saved steps
each point of a recipe has the steps that the baseline needs to get there,
between two of its points by the logarithm of steps.
"""

import json
import logging
import math
import os
import pathlib
import statistics
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

if __name__ == "__main__":  # TensorFlow, which TensorBoard imports, reads this.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
import matplotlib
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing import event_accumulator

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
_RESULTS_FILE = "eval_results.txt"
_KINDS = (".svg", ".png", ".pdf")
# A share of the largest value below which sizes are drawn linearly.
_LINEAR_SHARE = 0.02


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string(
      "runs", None,
      "NAME=FOLDER, separated by commas: output folders of trainers.")
  flags.DEFINE_string(
      "references", "",
      "NAME=FOLDER, separated by commas: with --runs, folders with an "
      "eval_results.txt, drawn as horizontal lines.")
  flags.DEFINE_string(
      "results_file", None, "results.json of examples/compare_students.py.")
  flags.DEFINE_string("student", None, "Name of the student in it.")
  flags.DEFINE_string(
      "baseline", "hard labels", "Recipe that the others are compared with.")
  flags.DEFINE_bool(
      "label_bytes", False,
      "Whether to draw the students of the longest training over the bytes of "
      "labels that a sequence has, instead of over the steps.")
  flags.DEFINE_string(
      "benchmarks_file", None, "results.json of benchmarks/run.py.")
  flags.DEFINE_string("title", None, "Title; by default the student's name.")
  flags.DEFINE_string(
      "output_file", None, "Picture to write: .svg, .png or .pdf.")


# --- Curves ------------------------------------------------------------------


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


# --- What is read ------------------------------------------------------------


def read_runs(results_file: str, student: str) -> Dict[str, Any]:
  """Reads what a comparison has found for a student.

  Returns:
    What results.json holds, with the runs of that student only.

  Raises:
    InputError: it is no such file, or has no such student.
  """
  files.check_file(results_file, "results_file")
  try:
    results = json.loads(files.read_text(results_file))
    students = {run["student"] for run in results["runs"]}
    for metric in _METRICS:
      curves(results["runs"], metric)
  except (ValueError, KeyError, TypeError):
    raise InputError("--results_file={} is no results.json of "
                     "examples/compare_students.py".format(
                         results_file)) from None
  if student not in students:
    raise InputError("--student={} is not in {}, which has {}".format(
        student, results_file, ", ".join(sorted(students)) or "no runs"))
  return dict(results, runs=[run for run in results["runs"]
                             if run["student"] == student])


def read_ratios(benchmarks_file: str) -> Dict[str, float]:
  """Reads how many times as fast as its peer each figure is.

  Returns:
    Ratios by the names of the figure and of its peer.

  Raises:
    InputError: it is no such file.
  """
  files.check_file(benchmarks_file, "benchmarks_file")
  try:
    parts = json.loads(files.read_text(benchmarks_file))["parts"].values()
    return {"{}\n{}".format(row["what"], row["peer"]["name"]): row["ratio"]
            for part in parts for row in part["rows"] if row["ratio"]}
  except (ValueError, KeyError, TypeError, AttributeError):
    raise InputError("--benchmarks_file={} is no results.json of "
                     "benchmarks/run.py".format(benchmarks_file)) from None


def read_folders(value: str, flag: str) -> Dict[str, str]:
  """Parses NAME=FOLDER, separated by commas.

  Raises:
    InputError: it is something else.
  """
  folders = {}
  for part in filter(None, value.split(",")):
    name, equals, folder = part.partition("=")
    if not (name and equals and folder):
      raise InputError("--{}: expected NAME=FOLDER, found {!r}".format(
          flag, part))
    folders[name] = folder
  return folders


def read_events(folder: str, metric: str) -> Curve:
  """Reads a held-out metric by step from what a trainer has written.

  Args:
    folder: the trainer's output_dir.
    metric: its name.

  Raises:
    InputError: it was not evaluated there.
  """
  eval_folder = os.path.join(folder, "eval")
  events = event_accumulator.EventAccumulator(
      eval_folder, {event_accumulator.SCALARS: 0})
  # It warns of a second graph, which a training that resumed has written.
  logging.getLogger("tensorboard").setLevel(logging.ERROR)
  if files.is_folder(eval_folder):
    events.Reload()
  if metric not in events.Tags()[event_accumulator.SCALARS]:
    raise InputError(
        "--runs: there is no {} in TensorBoard files of {}; train with "
        "--eval_input_file and --eval_every_checkpoint".format(
            metric, eval_folder))
  # A checkpoint that was evaluated twice is one point.
  values = {event.step: event.value for event in events.Scalars(metric)}
  return [Point(step, [values[step]]) for step in sorted(values)]


def read_result(folder: str, metric: str) -> float:
  """Reads a metric from the results file in a folder.

  Raises:
    InputError: there is none.
  """
  path = os.path.join(folder, _RESULTS_FILE)
  files.check_file(path, "references")
  for line in files.read_text(path).splitlines():
    name, _, value = line.partition(" = ")
    if name == metric:
      return float(value)
  raise InputError("--references: {} has no {}".format(path, metric))


# --- Pictures ----------------------------------------------------------------


def draw(title: str, path: str, draw_panel: Callable[[Any, str], None],
         x_label: str) -> None:
  """Draws a panel for each metric.

  Args:
    title: of the picture.
    path: of the picture.
    draw_panel: draws a metric into a panel of matplotlib.
    x_label: what the horizontal axes say.
  """
  figure, panels = plt.subplots(
      1, len(_METRICS), figsize=(10, 4), layout="constrained")
  for panel, (metric, (label, _)) in zip(panels, _METRICS.items()):
    draw_panel(panel, metric)
    panel.set_xlabel(x_label)
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)
  panels[0].legend()
  figure.suptitle(title)
  _write(figure, path)


def _write(figure: Any, path: str) -> None:
  """Writes a picture, to the same bytes in each run."""
  matplotlib.rcParams["svg.hashsalt"] = "distillation"
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  partial = files.partial_path(path)
  kind = os.path.splitext(path)[1][1:]
  figure.savefig(partial, format=kind,
                 metadata={"Date": None} if kind == "svg" else None)
  os.replace(partial, path)


def draw_curves(panel: Any, all_curves: Dict[str, Curve]) -> None:
  """Draws a line for each curve of at least two points."""
  for name, curve in all_curves.items():
    if len(curve) < 2:
      continue
    steps = [point.steps for point in curve]
    line, = panel.plot(steps, [point.mean for point in curve], marker="o",
                       label=name)
    panel.fill_between(
        steps, [min(point.values) for point in curve],
        [max(point.values) for point in curve], color=line.get_color(),
        alpha=0.2, linewidth=0)


def draw_runs(title: str, path: str, runs: Dict[str, str],
              references: Dict[str, str]) -> None:
  """Draws how trainings go along, with horizontal lines for references.

  Args:
    title: of the picture.
    path: of the picture.
    runs: folders of trainers by name.
    references: folders with a results file by name.
  """

  def draw_panel(panel: Any, metric: str) -> None:
    draw_curves(panel, {name: read_events(folder, metric)
                        for name, folder in runs.items()})
    for name, folder in references.items():
      panel.axhline(read_result(folder, metric), color="black", linestyle=":",
                    label=name)

  draw(title, path, draw_panel, "training steps")


def draw_steps(title: str, path: str, by_metric: Dict[str, Dict[str, Curve]]
              ) -> None:
  """Draws recipes over the numbers of steps of their trainings."""

  def draw_panel(panel: Any, metric: str) -> None:
    draw_curves(panel, by_metric[metric])
    panel.set_xscale("log")
    ticks = sorted({point.steps for curve in by_metric[metric].values()
                    for point in curve})
    panel.set_xticks(ticks, ["{:,}".format(tick) for tick in ticks])
    panel.minorticks_off()

  draw(title, path, draw_panel, "training steps")


def draw_label_bytes(title: str, path: str,
                     by_metric: Dict[str, Dict[str, Curve]],
                     label_bytes: Dict[str, float]) -> None:
  """Draws recipes over the bytes of labels that a sequence has.

  Those that have no run of the most steps, or of no known size, are left out.
  """

  def draw_panel(panel: Any, metric: str) -> None:
    all_curves = by_metric[metric]
    most_steps = max(curve[-1].steps for curve in all_curves.values())
    for recipe, curve in all_curves.items():
      point = curve[-1]
      if point.steps < most_steps or recipe not in label_bytes:
        continue
      panel.errorbar(
          label_bytes[recipe], point.mean,
          yerr=[[point.mean - min(point.values)],
                [max(point.values) - point.mean]],
          marker="o", capsize=3, label=recipe)
    linear_end = _LINEAR_SHARE * max(label_bytes.values()) or 1
    panel.set_xscale("symlog", linthresh=linear_end)
    panel.set_xlim(left=-linear_end / 2)

  draw(title, path, draw_panel, "bytes of labels for a sequence")


def draw_ratios(path: str, ratios: Dict[str, float]) -> None:
  """Draws a bar for each figure that has a peer."""
  figure, panel = plt.subplots(
      figsize=(8, 1 + 0.5 * len(ratios)), layout="constrained")
  # From 1, where both are as fast, to the right or left.
  bars = panel.barh(list(ratios), [ratio - 1 for ratio in ratios.values()],
                    left=1)
  panel.bar_label(bars, ["{:.3g}".format(ratio) for ratio in ratios.values()],
                  padding=3)
  panel.invert_yaxis()
  panel.axvline(1, color="black", linewidth=1)
  panel.set_xscale("log")
  panel.xaxis.set_major_formatter("{x:g}")
  panel.margins(x=0.15)
  panel.tick_params(axis="y", labelsize="small")
  panel.set_xlabel("times as fast as the peer")
  _write(figure, path)


def main() -> None:
  values = flags.FLAGS
  if os.path.splitext(values.output_file)[1] not in _KINDS:
    raise InputError("--output_file={} must end in {}".format(
        values.output_file, ", ".join(_KINDS)))
  if sum(map(bool, (values.runs, values.results_file,
                    values.benchmarks_file))) != 1:
    raise InputError("give one of --runs, --results_file and "
                     "--benchmarks_file; see --help")
  if values.benchmarks_file:
    draw_ratios(values.output_file, read_ratios(values.benchmarks_file))
    return
  if values.runs:
    draw_runs(values.title or "", values.output_file,
              read_folders(values.runs, "runs"),
              read_folders(values.references, "references"))
    return
  results = read_runs(values.results_file, values.student)
  title = values.title or values.student
  by_metric = {metric: curves(results["runs"], metric) for metric in _METRICS}
  if values.label_bytes:
    if not results.get("label_bytes"):
      raise InputError(
          "--results_file={} does not say how large the labels are; run "
          "examples/compare_students.py again, which adds it".format(
              values.results_file))
    draw_label_bytes(title, values.output_file, by_metric,
                     results["label_bytes"])
    return
  known = by_metric["masked_lm_accuracy"]
  if values.baseline not in known:
    raise InputError("--baseline={} is not in {}, which has {}".format(
        values.baseline, values.results_file, ", ".join(sorted(known))))
  draw_steps(title, values.output_file, by_metric)
  for metric, all_curves in by_metric.items():
    sys.stdout.write(report(all_curves, values.baseline, metric))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("output_file",))
