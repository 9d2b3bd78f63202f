r"""Trains students with several recipes and compares them on held-out text.

  python examples/compare_students.py \
    --description_file examples/students/small.json --output_dir comparison

The description is a JSON object:

  teacher           folder with bert_config.json and bert_model.ckpt.*
  training_records  paths and patterns of masked records of stage III
  held_out_records  paths and patterns of masked records of held-out text
  validation_records
                    optional: paths and patterns of masked records of other
                    held-out text, which select the best checkpoint of a run
                    with "eval_every_checkpoint". By default held_out_records
                    select the checkpoint, which biases its results slightly
  flags             flags of stages IV and V, such as max_seq_length
  training          flags of stage V only, such as learning_rate
  labels            by name, flags of stage IV: {"truncation_factor": 10}
  students          by name, "config": differences from the teacher's config;
                    "start": "scratch" or layers of the teacher, [0, 2, 4]
  recipes           by name, flags of stage V; "labels": the name of the labels,
                    if the student learns from the teacher
  runs              a list of objects with "student", "recipes" (a list),
                    "steps" (a list), "seeds" (a list) and, optionally,
                    "training": flags that replace those of "training" above

All students are evaluated alike: against the masked tokens, and against the
teacher's top-10 tokens. The script first logs an estimate of the duration. Run
the same command again to resume; finished runs are kept.

The script writes results.json, with the command of each run and the bytes of
labels per sequence, and table.md, with means and standard deviations over the
seeds, to output_dir. It keeps the exported student and the log of each run.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from typing import (Any, Dict, Iterator, List, Mapping, NamedTuple, Optional,
                    Sequence, Tuple, Union)

if __name__ == "__main__":  # TensorFlow reads this once, at import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
from absl import logging
import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# pylint: disable=wrong-import-position
from distillation import checkpoints
from distillation import evaluation
from records import block_index
from util import command_line
from util import files
from util.command_line import InputError

RESULTS_FILE = "results.json"
TABLE_FILE = "table.md"
_LOG_FILE = "log.txt"

Flags = Mapping[str, Any]

_TRAINER = "network_distillation_single_machine_truncated.py"
_LABELLER = "extract_teacher_labels_truncated.py"
_SCRATCH = "scratch"
# Flags of the held-out labels, against which all students are evaluated.
_HELD_OUT_LABELS = {"truncation_factor": 10}
# Steps of two short trainings, which measure the time of start-up and a step.
_TIMED_STEPS = (10, 40)

_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string",
               int: "a whole number"}

COLUMNS = {
    "accuracy": "masked_lm_accuracy",
    "cross entropy": "masked_lm_cross_entropy",
    "agreement with the teacher": "teacher_top1_agreement",
    "KL from the teacher": "kl_from_teacher",
    "calibration error": "expected_calibration_error",
}


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string(
      "description_file", None,
      "JSON file with the description of the comparison; see above.")
  flags.DEFINE_string("output_dir", None, "Folder for all output.")


# --- The description ---------------------------------------------------------


class Student(NamedTuple):
  """A student before training.

  Attributes:
    config: differences from the teacher's config.
    start: layers of the teacher that initialize the student, or "scratch".
  """
  config: Dict[str, Any]
  start: Union[str, List[int]] = _SCRATCH


class Run(NamedTuple):
  """The training of a student with a recipe.

  Attributes:
    student: name of the student.
    recipe: name of the recipe.
    steps: number of training steps.
    seed: seed of the weights, dropout and order.
    training: flags of stage V, without the flags of the recipe.
  """
  student: str
  recipe: str
  steps: int
  seed: int
  training: Flags

  @property
  def chooses_checkpoint(self) -> bool:
    """Whether evaluations during training select the best checkpoint."""
    return bool(self.training.get("eval_every_checkpoint"))


@dataclasses.dataclass(frozen=True)
class Description:
  """A comparison, with the fields that the script's help describes."""
  teacher: str
  training_records: str
  held_out_records: str
  flags: Flags
  training: Flags
  labels: Mapping[str, Flags]
  students: Mapping[str, Student]
  recipes: Mapping[str, Flags]
  runs: Sequence[Run]
  validation_records: Optional[str] = None


def read_description(path: str) -> Description:
  """Reads and checks a description.

  Raises:
    InputError: if the file is not a valid description.
  """
  try:
    with open(path, encoding="utf-8") as file:
      values = json.load(file)
  except ValueError as error:
    raise InputError("--description_file={} is not JSON ({}); correct the file"
                     .format(path, error)) from None
  try:
    return _description(values)
  except InputError as error:
    raise InputError("--description_file={}: {}; see --help".format(
        path, error)) from None


def _description(values: Any) -> Description:
  """Returns the description of a JSON value; raises InputError."""
  known = dataclasses.fields(Description)
  _check_object(
      "the description", values, [field.name for field in known],
      [field.name for field in known if field.default is dataclasses.MISSING])
  for name, value in values.items():
    _check_type(name, value, list if name == "runs" else str if name in (
        "teacher", "training_records", "held_out_records",
        "validation_records") else dict)
  students = {}
  for name, student in values["students"].items():
    _check_object("student " + name, student, Student._fields, ["config"])
    _check_type("config of " + name, student["config"], dict)
    if student.get("start", _SCRATCH) != _SCRATCH:
      _check_type("start of " + name, student["start"], list)
    students[name] = Student(**student)
  for kind in ("labels", "recipes"):
    for name, some in values[kind].items():
      _check_type("{} of {}".format(name, kind), some, dict)
  for name, recipe in values["recipes"].items():
    labels = recipe.get("labels")
    if labels is not None and labels not in values["labels"]:
      raise InputError("recipe {} has the labels {}, expected one of {}".format(
          name, labels, ", ".join(values["labels"])))
  runs: List[Run] = []
  for group in values["runs"]:
    fields = ["student", "recipes", "steps", "seeds"]
    _check_object("a run", group, [*fields, "training"], fields)
    for name in fields[1:]:
      _check_type(name + " of a run", group[name], list)
    for name in ("steps", "seeds"):
      for number in group[name]:
        _check_type("one of the {} of a run".format(name), number, int)
    _check_type("training of a run", group.get("training", {}), dict)
    for kind, wanted, choice in (
        ("student", [group["student"]], students),
        ("recipe", group["recipes"], values["recipes"])):
      for name in wanted:
        _check_type("{} of a run".format(kind), name, str)
        if name not in choice:
          raise InputError("a run has the {} {}, expected one of {}".format(
              kind, name, ", ".join(choice)))
    training = dict(values["training"], **group.get("training", {}))
    runs.extend(Run(group["student"], recipe, steps, seed, training)
                for seed in group["seeds"] for steps in group["steps"]
                for recipe in group["recipes"])
  if not runs:
    raise InputError("runs is empty, expected at least one run")
  for names in (students, values["recipes"], values["labels"]):
    by_slug: Dict[str, str] = {}
    for name in names:
      other = by_slug.setdefault(_slug(name), name)
      if other != name:
        raise InputError("the names {} and {} are too similar: both become {} "
                         "in names of files; change one of them".format(
                             other, name, _slug(name)))
  return Description(**dict(values, students=students, runs=runs))


def _check_type(what: str, value: Any, wanted: type) -> None:
  """Raises InputError if a value has another type than `wanted`."""
  if not isinstance(value, wanted):
    raise InputError("{} is {}, not {}".format(
        what, json.dumps(value), _TYPE_NAMES[wanted]))


def _check_object(what: str, values: Any, known: Sequence[str],
                  required: Sequence[str]) -> None:
  """Raises InputError if a value is not an object with the right keys."""
  _check_type(what, values, dict)
  for name in required:
    if name not in values:
      raise InputError("{} lacks {}".format(what, name))
  for name in values:
    if name not in known:
      raise InputError("{} has {}, expected only {}".format(
          what, name, ", ".join(known)))


# --- Commands ----------------------------------------------------------------


def command(script: str, *all_flags: Flags) -> List[str]:
  """Returns the command of a script; later flags replace earlier ones."""
  merged = {name: value for some in all_flags for name, value in some.items()}
  return ["python", script, *("--{}={}".format(name, value)
                              for name, value in merged.items())]


class Commands:
  """The commands of a comparison and the paths of their output."""

  def __init__(self, description: Description, output_dir: str):
    self._description = description
    self._output_dir = output_dir
    self._teacher_config = os.path.join(
        description.teacher, checkpoints.CONFIG_FILE)
    self._teacher_checkpoint = os.path.join(
        description.teacher, checkpoints.CHECKPOINT_FILE)
    self._held_out = self.labelled("held out")

  def label(self, name: str) -> List[str]:
    """Returns the command that labels the training records."""
    return self._label(self._description.training_records,
                       self.labelled(name), self._description.labels[name])

  def label_held_out(self) -> List[List[str]]:
    """Returns the commands that label held-out and validation records."""
    description = self._description
    commands = [self._label(
        description.held_out_records, self._held_out, _HELD_OUT_LABELS)]
    for run in description.runs:
      if run.chooses_checkpoint:
        recipe = self._recipe(run)
        commands.append(self._label(
            description.validation_records or description.held_out_records,
            self._validation(recipe), _validation_labels(recipe)))
    return [words for i, words in enumerate(commands)
            if words not in commands[:i]]

  def evaluate_teacher(self) -> List[str]:
    """Returns the command that evaluates the teacher."""
    return self._evaluate(
        self.folder("teacher"), bert_config_file=self._teacher_config,
        init_checkpoint=self._teacher_checkpoint)

  def evaluate_start(self, student: str) -> List[str]:
    """Returns the command that evaluates a student before training."""
    return self._evaluate(self.folder("start", student),
                          **self._student_flags(student))

  def evaluate(self, run: Run) -> List[str]:
    """Returns the command that evaluates a trained student."""
    return self._evaluate(self.run_folder(run),
                          bert_config_file=self.config_file(run.student))

  def train(self, run: Run) -> List[str]:
    """Returns the command that trains a student."""
    recipe = self._recipe(run)
    if run.chooses_checkpoint:
      recipe["eval_input_file"] = self._validation(recipe)
    return self._train(run, self.run_folder(run), recipe)

  def train_for_time(self, run: Run, steps: int) -> List[str]:
    """Returns a command like that of a run, but on hard labels."""
    training = {name: value for name, value in run.training.items()
                if name not in ("eval_every_checkpoint", "best_checkpoint_by")}
    return self._train(
        run._replace(steps=steps, training=training),
        os.path.join(self.folder("timing"), str(steps)),
        {"hard_label_weight": 1})

  def _recipe(self, run: Run) -> Dict[str, Any]:
    """Returns the flags of stage V for a run's recipe."""
    recipe = dict(self._description.recipes[run.recipe])
    labels = recipe.pop("labels", None)
    if labels is None:
      return recipe
    return {"input_file": self.labelled(labels),
            **_shared_flags(self._description.labels[labels]), **recipe}

  def _validation(self, recipe: Flags) -> str:
    """Returns the path of the records that select the best checkpoint."""
    labels = _validation_labels(recipe)
    if labels != _HELD_OUT_LABELS:
      return self.labelled(" ".join(
          ["validation", *map(str, labels.values())]))
    return (self.labelled("validation")
            if self._description.validation_records else self._held_out)

  def _train(self, run: Run, output_dir: str, recipe: Flags) -> List[str]:
    return command(
        _TRAINER, self._description.flags, self._student_flags(run.student),
        {"input_file": self._description.training_records,
         "output_dir": output_dir, "do_train": True,
         "num_train_steps": run.steps, "num_warmup_steps": run.steps // 10,
         "keep_checkpoint_max": 1, "random_seed": run.seed},
        run.training, recipe)

  def labelled(self, name: str) -> str:
    """Returns the path of labelled records."""
    return os.path.join(self._output_dir, "labels", _slug(name) + ".tfrecord")

  def config_file(self, student: str) -> str:
    """Returns the path of a student's config."""
    return os.path.join(self._output_dir, _slug("config", student) + ".json")

  def run_folder(self, run: Run) -> str:
    """Returns the folder of a run."""
    return self.folder("run", run.student, run.recipe, str(run.steps),
                       str(run.seed))

  def folder(self, *names: str) -> str:
    """Returns the folder for a list of names."""
    return os.path.join(self._output_dir, _slug(*names))

  def _student_flags(self, name: str) -> Flags:
    """Returns the flags of a student's config and initialization."""
    student = self._description.students[name]
    start = {} if student.start == _SCRATCH else {
        "init_checkpoint": self._teacher_checkpoint,
        "init_layers": ",".join(map(str, student.start))}
    return {"bert_config_file": self.config_file(name), **start}

  def _label(self, input_file: str, output_file: str, labels: Flags
            ) -> List[str]:
    return command(
        _LABELLER, self._description.flags,
        {"bert_config_file": self._teacher_config,
         "init_checkpoint": self._teacher_checkpoint,
         "input_file": input_file, "output_file": output_file}, labels)

  def _evaluate(self, output_dir: str, **model: str) -> List[str]:
    return command(
        _TRAINER, self._description.flags,
        {"output_dir": output_dir, "input_file": self._held_out,
         "do_eval": True, "eval_batch_size": 32, "max_eval_steps": 1000000},
        _HELD_OUT_LABELS, model)


def _shared_flags(labels: Flags) -> Flags:
  """Returns the flags of stage IV that stage V needs too."""
  return {name: labels[name] for name in ("truncation_factor", "temperature")
          if name in labels}


def _validation_labels(recipe: Flags) -> Flags:
  """Returns the flags of stage IV for the labels that evaluate a recipe."""
  return {**_HELD_OUT_LABELS, **_shared_flags(recipe)}


def _slug(*names: str) -> str:
  """Returns a file name, with dashes for spaces and special characters."""
  return "_".join(re.sub(r"[^\w.]+", "-", name).strip("-") for name in names)


def execute(words: Sequence[str], log_file: str) -> float:
  """Runs a command in the top folder of the project; returns its seconds.

  Args:
    words: the command.
    log_file: file to which the output is appended.

  Raises:
    InputError: if the command fails.
    KeyboardInterrupt: if a signal ends the command, after a trainer has saved a
      checkpoint.
  """
  os.makedirs(os.path.dirname(log_file), exist_ok=True)
  start = time.perf_counter()
  with open(log_file, "a", encoding="utf-8") as log:
    log.write("+ {}\n".format(shlex.join(words)))
    log.flush()
    # In its own session, so that Ctrl-C reaches the command only once, below.
    with subprocess.Popen(
        [sys.executable, os.path.join(str(ROOT), words[1]), *words[2:]],
        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True) as process:
      try:
        process.wait()
      except KeyboardInterrupt:
        process.terminate()
        process.wait()  # A trainer saves a checkpoint.
        raise
  if process.returncode:
    with open(log_file, encoding="utf-8", errors="replace") as log:
      last_line = log.read().strip().splitlines()[-1]
    raise InputError("{} has failed: {} (the whole output is in {})".format(
        words[1], last_line, log_file))
  return time.perf_counter() - start


# --- The comparison ----------------------------------------------------------


class Comparison:
  """The runs of a description and their results so far."""

  def __init__(self, description: Description, output_dir: str):
    self._description = description
    self._output_dir = output_dir
    self._commands = Commands(description, output_dir)
    self._path = os.path.join(output_dir, RESULTS_FILE)
    self._results: Dict[str, Any] = {"models": [], "runs": []}
    if os.path.exists(self._path):
      try:
        with open(self._path, encoding="utf-8") as file:
          self._results = json.load(file)
      except ValueError as error:
        raise InputError("--output_dir: {} is damaged ({}); choose another "
                         "folder".format(self._path, error)) from None

  def check_inputs(self) -> None:
    """Compares the teacher and records with those of finished runs.

    Raises:
      InputError: if finished runs have another teacher or other records.
    """
    if not self._results["models"] and not self._results["runs"]:
      # The inputs may change until the first model is evaluated.
      self._results["inputs"] = {}
    noted = self._results.setdefault("inputs", {})
    for name, found in _fingerprints(self._description).items():
      if noted.setdefault(name, found) != found:
        raise InputError(
            "--description_file: {} {} has changed since --output_dir={} was "
            "made; choose another folder".format(
                name, getattr(self._description, name), self._output_dir))
    self._write()

  def prepare(self) -> None:
    """Writes configs, labels held-out records, evaluates untrained models."""
    teacher = checkpoints.load_config(
        os.path.join(self._description.teacher, checkpoints.CONFIG_FILE),
        flag="description_file")
    for name, student in self._description.students.items():
      try:
        config = dataclasses.replace(teacher, **student.config)
        checkpoints.check_config(config)
      except (TypeError, ValueError) as error:
        raise InputError(
            "--description_file: student {}: {}; correct the student's config"
            .format(name, error)) from None
      path, text = self._commands.config_file(name), config.to_json_string()
      if os.path.exists(path) and pathlib.Path(path).read_text() != text:
        raise InputError(
            "--description_file: student {}: {} was made with another config; "
            "choose another name for the student, or another --output_dir"
            .format(name, path))
      files.write_atomically(path, text)
    for words in self._commands.label_held_out():
      self._execute(words, self._commands.folder("labels"))
    self._evaluate_model(
        {"model": "teacher"}, self._commands.evaluate_teacher(),
        self._commands.folder("teacher"))
    for name, student in self._description.students.items():
      if student.start != _SCRATCH:
        self._evaluate_model(
            {"model": "start", "student": name},
            self._commands.evaluate_start(name),
            self._commands.folder("start", name))

  def remaining(self) -> List[Run]:
    """Returns the unfinished runs.

    Raises:
      InputError: if a finished run was made with other settings.
    """
    finished = {(result["student"], result["recipe"], result["steps"],
                 result["seed"]): result for result in self._results["runs"]}
    remaining = []
    for run in self._description.runs:
      result = finished.get((run.student, run.recipe, run.steps, run.seed))
      if result is None:
        remaining.append(run)
        continue
      found, wanted = shlex.split(result["command"]), self._commands.train(run)
      if found != wanted:
        raise InputError(
            "--output_dir={} holds {}, made with {}, but the description now "
            "has {}; choose another folder, or another name".format(
                self._output_dir, _title(run), _difference(found, wanted),
                _difference(wanted, found)))
    return remaining

  def estimate(self, runs: Sequence[Run]) -> float:
    """Returns the estimated seconds of runs and their labels.

    Short trainings of each student measure the time of a step.
    """
    # The time depends on the student and the flags, hardly on seed or recipe.
    times = {}
    for run in runs:
      key = json.dumps([run.student, run.training])
      if key not in times:
        times[key] = self._time(run)
    seconds = 0.0
    for run in runs:
      start, step = times[json.dumps([run.student, run.training])]
      # Training and evaluation have the same start-up time.
      seconds += 2 * start + run.steps * step
    evaluation_of_teacher = self._results["models"][0]["seconds"]
    num_unlabelled = _num_records(self._description.training_records) * sum(
        not os.path.exists(self._commands.labelled(name))
        for name in self._labels(runs))
    return seconds + evaluation_of_teacher * num_unlabelled / _num_records(
        self._description.held_out_records)

  def run(self, runs: Sequence[Run]) -> None:
    """Labels records, then trains and evaluates students; logs each result."""
    labels = self._commands.folder("labels")
    for name in self._labels(runs):
      seconds = self._execute(self._commands.label(name), labels)
      logging.info("labels %s: %s", name, _duration(seconds))
    for run in tqdm.tqdm(runs, unit=" runs", disable=None):
      folder, words = self._commands.run_folder(run), self._commands.train(run)
      seconds = self._execute(words, folder)
      self._execute(self._commands.evaluate(run), folder)
      found = self._read(folder)
      self._results["runs"].append({
          "student": run.student, "recipe": run.recipe, "steps": run.steps,
          "seed": run.seed, "seconds": round(seconds, 1),
          "command": shlex.join(words), "results": found})
      self._write()
      # Keep the exported student; delete checkpoints with optimizer slots.
      for path in pathlib.Path(folder).rglob("model.ckpt-*"):
        path.unlink()
      logging.info("%s: accuracy %.4f, cross entropy %.3f, agreement %.4f, %s",
                   _title(run), *list(map(found.get, COLUMNS.values()))[:3],
                   _duration(seconds))

  def note_label_bytes(self) -> None:
    """Adds the bytes of labels per sequence of each recipe to the results.

    Earlier values stay if the records have been removed.
    """
    label_bytes = self._results.setdefault("label_bytes", {})
    finished = {run["recipe"] for run in self._results["runs"]}
    for name, recipe in self._description.recipes.items():
      if name not in finished:
        continue
      labels = recipe.get("labels")
      with contextlib.suppress(InputError):
        label_bytes[name] = 0 if labels is None else round(
            _bytes_per_record(self._commands.labelled(labels))
            - _bytes_per_record(self._description.training_records), 1)
    self._write()

  def table(self) -> str:
    """Returns the tables of all students and numbers of steps, in Markdown."""
    return "\n".join(tables(self._results))

  def _labels(self, runs: Sequence[Run]) -> List[str]:
    """Returns the names of the labels of runs."""
    recipes = [self._description.recipes[run.recipe] for run in runs]
    return list(dict.fromkeys(
        recipe["labels"] for recipe in recipes if "labels" in recipe))

  def _time(self, run: Run) -> Tuple[float, float]:
    """Returns the seconds of the start-up and of a step of training."""
    folder = self._commands.folder("timing")
    shutil.rmtree(folder, ignore_errors=True)
    few, many = (self._execute(self._commands.train_for_time(run, steps),
                               folder) for steps in _TIMED_STEPS)
    shutil.rmtree(folder)
    step = max(0.0, many - few) / (_TIMED_STEPS[1] - _TIMED_STEPS[0])
    return max(0.0, few - _TIMED_STEPS[0] * step), step

  def _evaluate_model(self, model: Dict[str, str], words: Sequence[str],
                      folder: str) -> None:
    """Evaluates a teacher or an untrained student, once."""
    if any(model.items() <= found.items() for found in self._results["models"]):
      return
    seconds = self._execute(words, folder)
    self._results["models"].append(dict(
        model, seconds=round(seconds, 1), command=shlex.join(words),
        results=self._read(folder)))
    self._write()

  def _execute(self, words: Sequence[str], folder: str) -> float:
    return execute(words, os.path.join(folder, _LOG_FILE))

  def _read(self, folder: str) -> Dict[str, Any]:
    """Reads the results of an evaluation."""
    return evaluation.read_results(
        os.path.join(folder, evaluation.RESULTS_FILE))

  def _write(self) -> None:
    files.write_atomically(
        self._path, json.dumps(self._results, indent=1) + "\n")
    files.write_atomically(
        os.path.join(self._output_dir, TABLE_FILE), self.table())


def _fingerprints(description: Description) -> Dict[str, Dict[str, str]]:
  """Returns fingerprints of a description's files, by field.

  The function skips missing files: a finished comparison needs no files.
  """
  fingerprints = {}
  checkpoint = os.path.join(description.teacher, checkpoints.CHECKPOINT_FILE)
  if os.path.exists(checkpoint + ".index"):
    fingerprints["teacher"] = {
        checkpoints.CHECKPOINT_FILE: checkpoints.fingerprint(checkpoint)}
  for name in ("training_records", "held_out_records", "validation_records"):
    with contextlib.suppress(InputError):
      fingerprints[name] = {
          path: block_index.records_fingerprint(path)
          for path in files.find_files(
              getattr(description, name) or "", "description_file")}
  return fingerprints


def _num_records(patterns: str) -> int:
  """Returns the number of records in files."""
  return sum(block_index.count_records(path, "description_file")
             for path in files.find_files(patterns, "description_file"))


def _bytes_per_record(patterns: str) -> float:
  """Returns the mean size of the records in files, in bytes."""
  paths = files.find_files(patterns, "description_file")
  return sum(map(files.size, paths)) / _num_records(patterns)


def _difference(words: Sequence[str], others: Sequence[str]) -> str:
  return " ".join(word for word in words if word not in others) or "nothing"


def _title(run: Run) -> str:
  return "{}, {}, {:,} steps, seed {}".format(
      run.student, run.recipe, run.steps, run.seed)


def _duration(seconds: float) -> str:
  """Formats a duration in seconds, minutes or hours."""
  minutes = round(seconds / 60)
  if minutes < 2:
    return "{:.0f} seconds".format(seconds)
  if minutes < 120:
    return "{} minutes".format(minutes)
  return "{:.1f} hours".format(seconds / 3600)


# --- Tables ------------------------------------------------------------------


def tables(results: Mapping[str, Any]) -> Iterator[str]:
  """Yields a Markdown table for each student and number of steps.

  Args:
    results: contents of results.json.
  """
  groups: Dict[Tuple[str, int], Dict[str, List[Any]]] = {}
  for run in results["runs"]:
    group = groups.setdefault((run["student"], run["steps"]), {})
    group.setdefault(run["recipe"], []).append(run)
  for (student, steps), recipes in groups.items():
    rows = [["", "seeds", *COLUMNS]]
    for model in results["models"]:
      if model.get("student", student) == student:
        rows.append([model["model"], "", *cells([model])])
    rows.extend([recipe, str(len(runs)), *cells(runs)]
                for recipe, runs in recipes.items())
    lines = ["| {} |\n".format(" | ".join(row)) for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|\n")
    yield "{}, {:,} steps, {} a run:\n\n{}".format(
        student, steps, _duration(statistics.mean(
            run["seconds"] for runs in recipes.values() for run in runs)),
        "".join(lines))


def cells(runs: Sequence[Mapping[str, Any]]) -> List[str]:
  """Returns means of several runs ± standard deviations, by column."""
  row = []
  for name, key in COLUMNS.items():
    values = [run["results"][key] for run in runs]
    pattern = "{:.3f}" if name == "cross entropy" else "{:.4f}"
    row.append(pattern.format(statistics.mean(values)))
    if len(values) > 1:
      row[-1] += " ± " + pattern.format(statistics.stdev(values))
  return row


def main() -> None:
  description = read_description(flags.FLAGS.description_file)
  output_dir = flags.FLAGS.output_dir
  os.makedirs(output_dir, exist_ok=True)
  with files.locked_folder(output_dir):
    comparison = Comparison(description, output_dir)
    comparison.check_inputs()
    runs = comparison.remaining()
    comparison.prepare()
    logging.info("%d of %d runs are finished.",
                 len(description.runs) - len(runs), len(description.runs))
    if runs:
      logging.info("The remaining runs take about %s.",
                   _duration(comparison.estimate(runs)))
      comparison.run(runs)
    comparison.note_label_bytes()
  sys.stdout.write(comparison.table())


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("description_file", "output_dir"))
