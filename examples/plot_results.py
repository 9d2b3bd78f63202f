r"""Plots the results of trainings and benchmarks.

To plot held-out results by step, from the TensorBoard files of trainers with
--eval_every_checkpoint, with horizontal lines for models that only have an
eval_results.txt:

  python examples/plot_results.py \
    --runs 'with the teacher=distilled,without=hard_labels' \
    --references 'teacher=teacher_evaluation' --output_file curves.svg

To plot the results.json of examples/compare_students.py by the number of
training steps, with a report of the steps that a recipe saves, or by the size
of the labels, with a horizontal line for the teacher:

  python examples/plot_results.py \
    --results_file comparison/results.json --student 'small from scratch' \
    --output_file steps.svg
  python examples/plot_results.py \
    --results_file comparison/results.json --student 'layers 0, 2, 4' \
    --label_bytes True --output_file labels.svg

To plot the results.json of benchmarks/run.py, as ratios of the throughput to
each peer's throughput:

  python examples/plot_results.py \
    --benchmarks_file benchmarks/results.json --output_file peers.svg

Lines are means over the seeds, bands show the range over the seeds. The report
interpolates linearly in the logarithm of steps, between two points of the
baseline.
"""

import json
import logging
import math
import os
import pathlib
import statistics
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

if __name__ == "__main__":  # For TensorFlow, which TensorBoard imports.
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

# Maps metrics to their axis titles, and to whether higher values are better.
_METRICS = {
    "masked_lm_accuracy": (
        "accuracy on held-out masked tokens\n(share correct)", True),
    "masked_lm_cross_entropy": (
        "cross entropy on held-out masked tokens\n(nats, lower is better)",
        False),
}
# Inches of a panel; the text stays legible on a phone.
_PANEL_SIZE = (6, 4.5)
_RESULTS_FILE = "eval_results.txt"
_KINDS = (".svg", ".png", ".pdf")
# Upper end of the linear part of the axis of sizes, relative to the largest.
_LINEAR_SHARE = 0.02
# Minimal ratio of two labelled sizes, and of the axis end to the last size.
_MARGIN = 1.5


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string(
      "runs", None,
      "NAME=FOLDER, separated by commas: --output_dir of trainers.")
  flags.DEFINE_string(
      "references", "",
      "NAME=FOLDER, separated by commas: with --runs, folders with an "
      "eval_results.txt, plotted as horizontal lines.")
  flags.DEFINE_string(
      "results_file", None, "results.json of examples/compare_students.py.")
  flags.DEFINE_string("student", None, "Name of a student in --results_file.")
  flags.DEFINE_string(
      "baseline", "hard labels", "Recipe to compare the other recipes with.")
  flags.DEFINE_string(
      "names", "",
      "RECIPE=TEXT, separated by semicolons: with --results_file, the recipes "
      "to plot and their names in the legend. Default: all.")
  flags.DEFINE_list(
      "metrics", list(_METRICS), "Metrics to plot, one panel each.")
  flags.DEFINE_bool(
      "label_bytes", False,
      "Whether to plot the students of the longest training by the bytes of "
      "labels per sequence instead of by the steps.")
  flags.DEFINE_string(
      "benchmarks_file", None, "results.json of benchmarks/run.py.")
  flags.DEFINE_string("title", None, "Title. Default: the student's name.")
  flags.DEFINE_string(
      "output_file", None, "Picture to write: .svg, .png or .pdf.")


# --- Curves ------------------------------------------------------------------


class Point(NamedTuple):
  """The results of a recipe after `steps` steps, one for each seed."""
  steps: int
  values: Sequence[float]

  @property
  def mean(self) -> float:
    return statistics.mean(self.values)


# Points of a recipe, in the order of steps.
Curve = List[Point]


def curves(runs: Sequence[Dict[str, Any]], metric: str) -> Dict[str, Curve]:
  """Returns the curve of each recipe.

  Args:
    runs: runs of one student, as in results.json.
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
  """Returns the number of steps after which a curve reaches a value.

  Args:
    curve: the points.
    value: the value to reach.
    more_is_better: whether higher values are better.

  Returns:
    The interpolated number of steps; None if the curve reaches the value before
    its first point, or never.
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
  """Returns a line for each point of each recipe except the baseline."""
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
          "has no points on both sides of this value"))
  return "".join(line + "\n" for line in lines)


# --- Input -------------------------------------------------------------------


def read_runs(results_file: str, student: str, names: Dict[str, str]
             ) -> Dict[str, Any]:
  """Reads a student's results of a comparison.

  Args:
    results_file: results.json of the comparison.
    student: name of the student.
    names: maps the recipes to keep to new names; if empty, all are kept.

  Returns:
    The contents of results.json, with the runs of the student only.

  Raises:
    InputError: if the file is not a results.json, or has no such student or
      recipe.
  """
  files.check_file(results_file, "results_file")
  try:
    results = json.loads(files.read_text(results_file))
    students = {run["student"] for run in results["runs"]}
    for metric in _METRICS:
      curves(results["runs"], metric)
    for model in results.get("models", ()):
      model["model"], model["results"]  # pylint: disable=pointless-statement
  except (ValueError, KeyError, TypeError):
    raise InputError("--results_file={} is not a results.json of "
                     "examples/compare_students.py; give a file that this "
                     "script wrote".format(results_file)) from None
  if student not in students:
    raise InputError("--student={} is not in {}, which has {}".format(
        student, results_file, ", ".join(sorted(students)) or "no runs"))
  runs = [run for run in results["runs"] if run["student"] == student]
  recipes = {run["recipe"] for run in runs}
  for name, text in names.items():
    if name not in recipes:
      raise InputError("--names: {}={}: {} has no such recipe; give some of {}"
                       .format(name, text, results_file,
                               ", ".join(sorted(recipes))))
  names = names or {name: name for name in recipes}
  return dict(
      results,
      runs=[dict(run, recipe=names[run["recipe"]]) for run in runs
            if run["recipe"] in names],
      label_bytes={names[recipe]: size for recipe, size in results.get(
          "label_bytes", {}).items() if recipe in names})


def read_ratios(benchmarks_file: str) -> Dict[str, float]:
  """Reads the ratios of throughput to that of the peers.

  Returns:
    Ratios by the names of the figure and its peer.

  Raises:
    InputError: if the file is not a results.json of benchmarks/run.py.
  """
  files.check_file(benchmarks_file, "benchmarks_file")
  try:
    parts = json.loads(files.read_text(benchmarks_file))["parts"].values()
    return {"{}\n{}".format(row["what"], row["peer"]["name"]): row["ratio"]
            for part in parts for row in part["rows"] if row["ratio"]}
  except (ValueError, KeyError, TypeError, AttributeError):
    raise InputError("--benchmarks_file={} is not a results.json of "
                     "benchmarks/run.py; give benchmarks/results.json".format(
                         benchmarks_file)) from None


def read_pairs(value: str, flag: str, form: str = "NAME=FOLDER",
               separator: str = ",") -> Dict[str, str]:
  """Parses NAME=VALUE pairs, separated by commas or semicolons.

  Raises:
    InputError: if a part is not such a pair.
  """
  pairs = {}
  for part in filter(None, value.split(separator)):
    name, equals, text = part.partition("=")
    if not (name and equals and text):
      raise InputError("--{}: expected {}, found {!r}".format(
          flag, form, part))
    pairs[name] = text
  return pairs


def read_events(folder: str, metric: str) -> Curve:
  """Reads a held-out metric by step from a trainer's TensorBoard files.

  Args:
    folder: the trainer's output_dir.
    metric: name of the metric.

  Raises:
    InputError: if the files do not have the metric.
  """
  eval_folder = os.path.join(folder, "eval")
  events = event_accumulator.EventAccumulator(
      eval_folder, {event_accumulator.SCALARS: 0})
  # TensorBoard warns of a second graph, which a resumed training writes.
  logging.getLogger("tensorboard").setLevel(logging.ERROR)
  if files.is_folder(eval_folder):
    events.Reload()
  if metric not in events.Tags()[event_accumulator.SCALARS]:
    raise InputError(
        "--runs: there is no {} in TensorBoard files of {}; train with "
        "--eval_input_file and --eval_every_checkpoint".format(
            metric, eval_folder))
  # The last evaluation of a checkpoint replaces earlier ones.
  values = {event.step: event.value for event in events.Scalars(metric)}
  return [Point(step, [values[step]]) for step in sorted(values)]


def read_result(folder: str, metric: str) -> float:
  """Reads a metric from the results file in a folder.

  Raises:
    InputError: if there is no results file, or the file lacks the metric.
  """
  path = os.path.join(folder, _RESULTS_FILE)
  files.check_file(path, "references")
  for line in files.read_text(path).splitlines():
    name, _, value = line.partition(" = ")
    if name == metric:
      return float(value)
  raise InputError("--references: {} has no {}; evaluate the model again, or "
                   "leave the metric out of --metrics".format(path, metric))


# --- Pictures ----------------------------------------------------------------


def draw(title: str, path: str, metrics: Sequence[str],
         draw_panel: Callable[[Any, str], None], x_label: str) -> None:
  """Draws a panel for each metric, one below the other.

  Args:
    title: title of the picture.
    path: path of the picture.
    metrics: metrics of the panels.
    draw_panel: called with an axes of matplotlib and the metric to draw in it.
    x_label: title of the horizontal axes.
  """
  width, height = _PANEL_SIZE
  figure, panels = plt.subplots(
      len(metrics), 1, figsize=(width, height * len(metrics)),
      layout="constrained", squeeze=False)
  for (panel,), metric in zip(panels, metrics):
    draw_panel(panel, metric)
    panel.set_xlabel(x_label)
    panel.set_ylabel(_METRICS[metric][0])
    panel.grid(alpha=0.3)
  panels[0][0].legend()
  figure.suptitle(title)
  _write(figure, path)


def _write(figure: Any, path: str) -> None:
  """Writes a picture with reproducible bytes."""
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


def _draw_line(panel: Any, value: float, name: str) -> None:
  """Draws a horizontal line for a reference model."""
  panel.axhline(value, color="black", linestyle=":", label=name)


def draw_runs(title: str, path: str, metrics: Sequence[str],
              runs: Dict[str, str], references: Dict[str, str]) -> None:
  """Draws trainings by step, with horizontal lines for references.

  Args:
    title: title of the picture.
    path: path of the picture.
    metrics: metrics to draw.
    runs: maps names to folders of trainers.
    references: maps names to folders with a results file.
  """

  def draw_panel(panel: Any, metric: str) -> None:
    draw_curves(panel, {name: read_events(folder, metric)
                        for name, folder in runs.items()})
    for name, folder in references.items():
      _draw_line(panel, read_result(folder, metric), name)

  draw(title, path, metrics, draw_panel, "training steps")


def draw_steps(title: str, path: str, by_metric: Dict[str, Dict[str, Curve]],
               teacher: Dict[str, float]) -> None:
  """Draws recipes by the number of training steps.

  Args:
    title: title of the picture.
    path: path of the picture.
    by_metric: curves by metric and recipe.
    teacher: results of the teacher by metric; may be empty.
  """

  def draw_panel(panel: Any, metric: str) -> None:
    draw_curves(panel, by_metric[metric])
    if metric in teacher:
      _draw_line(panel, teacher[metric], "teacher")
    panel.set_xscale("log")
    ticks = sorted({point.steps for curve in by_metric[metric].values()
                    for point in curve})
    panel.set_xticks(ticks, ["{:,}".format(tick) for tick in ticks])
    panel.minorticks_off()

  draw(title, path, list(by_metric), draw_panel, "training steps")


def draw_label_bytes(title: str, path: str,
                     by_metric: Dict[str, Dict[str, Curve]],
                     label_bytes: Dict[str, float],
                     teacher: Dict[str, float]) -> None:
  """Draws recipes by the bytes of labels per sequence.

  Recipes without a size or without a run of the largest number of steps are
  left out.

  Args:
    title: title of the picture.
    path: path of the picture.
    by_metric: curves by metric and recipe.
    label_bytes: bytes of labels per sequence, by recipe.
    teacher: results of the teacher by metric; may be empty.
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
    if metric in teacher:
      _draw_line(panel, teacher[metric], "teacher")
    linear_end = _LINEAR_SHARE * max(label_bytes.values()) or 1
    panel.set_xscale("symlog", linthresh=linear_end)
    sizes = sorted(set(label_bytes.values()))
    panel.set_xlim(-linear_end / 2, _MARGIN * sizes[-1] + linear_end)
    ticks = [size for before, size in zip([-1.0, *sizes], sizes)
             if size > _MARGIN * before]
    panel.set_xticks(ticks, ["{:,.0f}".format(tick) for tick in ticks])
    panel.minorticks_off()

  draw(title, path, list(by_metric), draw_panel,
       "bytes of labels per sequence")


def draw_ratios(path: str, ratios: Dict[str, float]) -> None:
  """Draws a bar for each ratio to a peer."""
  figure, panel = plt.subplots(
      figsize=(8, 1 + 0.5 * len(ratios)), layout="constrained")
  # Bars begin at 1, equal throughput.
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
  panel.set_xlabel("throughput as a multiple of the peer's (1 is equal)")
  _write(figure, path)


def main() -> None:
  values = flags.FLAGS
  if os.path.splitext(values.output_file)[1] not in _KINDS:
    raise InputError("--output_file={} must end in {}".format(
        values.output_file, " or ".join(_KINDS)))
  if sum(map(bool, (values.runs, values.results_file,
                    values.benchmarks_file))) != 1:
    raise InputError("give one of --runs, --results_file and "
                     "--benchmarks_file; see --help")
  for metric in values.metrics or [""]:
    if metric not in _METRICS:
      raise InputError("--metrics: expected some of {}, found {!r}".format(
          ", ".join(_METRICS), metric))
  if values.benchmarks_file:
    draw_ratios(values.output_file, read_ratios(values.benchmarks_file))
    return
  if values.runs:
    draw_runs(values.title or "", values.output_file, values.metrics,
              read_pairs(values.runs, "runs"),
              read_pairs(values.references, "references"))
    return
  names = read_pairs(values.names, "names", "RECIPE=TEXT", ";")
  results = read_runs(values.results_file, values.student, names)
  title = values.title or values.student
  by_metric = {metric: curves(results["runs"], metric)
               for metric in values.metrics}
  teacher: Dict[str, float] = next(
      (model["results"] for model in results.get("models", ())
       if model["model"] == "teacher"), {})
  if values.label_bytes:
    if not results.get("label_bytes"):
      raise InputError(
          "--results_file={} lacks the sizes of the labels; run "
          "examples/compare_students.py again to add them".format(
              values.results_file))
    draw_label_bytes(title, values.output_file, by_metric,
                     results["label_bytes"], teacher)
    return
  baseline = names.get(values.baseline, values.baseline)
  known = {run["recipe"] for run in results["runs"]}
  if baseline not in known:
    raise InputError("--baseline={} is not in {}, which has {}".format(
        values.baseline, values.results_file, ", ".join(sorted(known))))
  draw_steps(title, values.output_file, by_metric, teacher)
  for metric, all_curves in by_metric.items():
    sys.stdout.write(report(all_curves, baseline, metric))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("output_file",))
