r"""Measures the gain of small classifiers from a fine-tuned teacher.

  python benchmarks/task_distillation.py --teacher_dir teacher \
    --train_file train.tsv --heldout_file heldout.tsv --text_file reviews.txt \
    --output_dir task_distillation --sizes 2400,9607

teacher_dir holds a BERT in Google's layout. For each size, the benchmark
fine-tunes the teacher on that number of labelled sentences, the first lines of
train_file. The teacher labels all sentences of train_file, without reading the
true labels, and sentences of text_file. The benchmark then trains two students
with three seeds: 3 layers of width 192 from scratch, and layers 0 and 3 of the
teacher. Each student trains on hard labels only (hard), and on hard labels and
the teacher's soft labels (distilled), with examples/fine_tune_classifier.py.

Each finished run adds its results to output_dir/results.json, which also has
fingerprints of the inputs. Run the same command again to resume; changed inputs
are refused. For each student and size, the benchmark prints means
and standard deviations over the seeds, and a paired bootstrap over the held-out
sentences: the 95% interval of the difference of the mean accuracies, and the
share of resamples in which hard labels are as accurate or more accurate.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import (Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence,
                    Tuple)

if __name__ == "__main__":  # TensorFlow reads this once, at import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from distillation import checkpoints
from examples import soft_labels
from examples import text_files
import modeling
from util import command_line
from util import files
from util.command_line import InputError

tf1 = tf.compat.v1
_SCRIPT = ROOT / "examples" / "fine_tune_classifier.py"
_SMALL, _LAYERS = "3 x 192 from scratch", "layers 0, 3 of the teacher"
_KEPT_LAYERS = (0, 3)
# Flags of each run. A tenth of train_file selected the flags of the small
# student. On hard labels only, a learning rate of 3e-4 fails with some seeds.
_RECIPES = {
    "teacher": {"learning_rate": 5e-5, "num_train_epochs": 3},
    (_SMALL, "hard"): {"learning_rate": 1e-4, "num_train_epochs": 10},
    (_SMALL, "distilled"): {
        "learning_rate": 3e-4, "num_train_epochs": 4, "hard_label_weight": 0.5},
    (_LAYERS, "hard"): {"learning_rate": 5e-5, "num_train_epochs": 3},
    (_LAYERS, "distilled"): {
        "learning_rate": 1e-4, "num_train_epochs": 2, "hard_label_weight": 0.5},
}
_METHODS = ("hard", "distilled")
# The names of the students in the flag.
_STUDENTS = {"small": _SMALL, "layers": _LAYERS}
_MAX_SEQ_LENGTH = 48
# Numbers of words in a sentence of text_file, without titles and paragraphs.
_WORDS = range(5, 33)
_NUM_RESAMPLES = 10000


def define_flags() -> None:
  """Defines the flags of this benchmark."""
  flags.DEFINE_string("teacher_dir", None, "A BERT in Google's layout.")
  flags.DEFINE_string("train_file", None, "Lines of label, tab and sentence.")
  flags.DEFINE_string(
      "heldout_file", None, "Lines to evaluate on, in the same format.")
  flags.DEFINE_string("text_file", None, "Sentences, one per line.")
  flags.DEFINE_integer(
      "num_texts", 10000, "Sentences of text_file to label.", lower_bound=0)
  flags.DEFINE_list("sizes", ["9607", "2400"], "Numbers of labelled sentences.")
  flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds of the students.")
  flags.DEFINE_list("students", list(_STUDENTS), "Students to train.")
  flags.DEFINE_string("output_dir", None, "Folder of models and results.")


class Run(NamedTuple):
  """The training of a student.

  Attributes:
    size: number of labelled sentences.
    student: name of the student.
    method: "hard" or "distilled".
    seed: seed of the training.
  """
  size: int
  student: str
  method: str
  seed: int


@dataclasses.dataclass(frozen=True)
class Files:
  """Paths of the inputs and outputs.

  Attributes:
    teacher: folder of the BERT.
    train, heldout, text: paths of train_file, heldout_file and text_file.
    output: folder of models and results.
  """
  teacher: pathlib.Path
  train: pathlib.Path
  heldout: pathlib.Path
  text: pathlib.Path
  output: pathlib.Path

  def labelled(self, size: int) -> pathlib.Path:
    """Returns the path of the first `size` sentences with their labels."""
    return self.output / "labelled_{}.tsv".format(size)

  def soft(self, size: int) -> pathlib.Path:
    """Returns the path of a teacher's soft labels for training."""
    return self.output / "soft_labels_{}.tsv".format(size)

  def heldout_soft(self, size: int) -> pathlib.Path:
    """Returns the path of a teacher's soft labels of held-out sentences."""
    return self.output / "heldout_soft_labels_{}.tsv".format(size)

  @property
  def results(self) -> pathlib.Path:
    """Path of the results of all runs."""
    return self.output / "results.json"

  def student(self, student: str) -> pathlib.Path:
    """Returns the folder of a student before training."""
    return self.output / ("small" if student == _SMALL else "layers")


# --- Inputs ------------------------------------------------------------------


def parse_list(flag: str, values: Sequence[str]) -> Sequence[str]:
  """Returns the values of a flag, if there are any and none occurs twice."""
  if not values or len(set(values)) < len(values):
    raise InputError("--{}={} must have at least one value, and no value "
                     "twice".format(flag, ",".join(values)))
  return values


def parse_numbers(flag: str, values: Sequence[str], minimum: int) -> List[int]:
  """Returns the whole numbers of a flag; raises InputError for others."""
  for value in parse_list(flag, values):
    if not (value.isdecimal() and int(value) >= minimum):
      raise InputError(
          "--{}={}: {!r} is not a whole number of {} or more; give whole "
          "numbers, separated by commas".format(
              flag, ",".join(values), value, minimum))
  return list(map(int, values))


def parse_students(values: Sequence[str]) -> List[str]:
  """Returns the students of --students; raises InputError for others."""
  for value in parse_list("students", values):
    if value not in _STUDENTS:
      raise InputError(
          "--students={}: there is no student {!r}; give {}".format(
              ",".join(values), value, " or ".join(_STUDENTS)))
  return [_STUDENTS[value] for value in values]


def fingerprints(where: Files, num_texts: int) -> Dict[str, str]:
  """Returns a value for each flag that changes the results of a run."""
  return {
      "teacher_dir": " ".join([
          files.fingerprint(str(where.teacher / checkpoints.CONFIG_FILE)),
          checkpoints.fingerprint(
              str(where.teacher / checkpoints.CHECKPOINT_FILE))]),
      "train_file": files.fingerprint(str(where.train)),
      "heldout_file": files.fingerprint(str(where.heldout)),
      "text_file": files.fingerprint(str(where.text)),
      "num_texts": str(num_texts)}


def sentences(path: pathlib.Path, count: int) -> List[str]:
  """Returns `count` sentences, spread evenly over a text."""
  with open(path, encoding="utf-8") as file:
    found = list(dict.fromkeys(
        line.strip() for line in file if len(line.split()) in _WORDS))
  if len(found) < count:
    raise InputError(
        "--text_file: {} has {} sentences of {} to {} words, expected {} "
        "sentences; give another file, or a lower --num_texts".format(
            path, len(found), _WORDS[0], _WORDS[-1], count))
  return [found[index * len(found) // count] for index in range(count)]


def prepare(where: Files, sizes: Sequence[int], num_texts: int) -> None:
  """Writes the subsets, the texts without labels and untrained students."""
  write_texts(where, sizes, num_texts)
  write_starts(where)


def write_texts(where: Files, sizes: Sequence[int], num_texts: int) -> None:
  """Writes the subsets and the texts without labels."""
  where.output.mkdir(parents=True, exist_ok=True)
  # str.splitlines would also split at separators within a text.
  with open(where.train, encoding="utf-8-sig") as file:
    lines = list(file)
  for size in sizes:
    if size > len(lines):
      raise InputError(
          "--sizes: {} is more than the {} lines of --train_file={}; give a "
          "lower size".format(size, len(lines), where.train))
    files.write_atomically(str(where.labelled(size)), "".join(lines[:size]))
  hidden = [line.partition("\t")[2].rstrip("\n") for line in lines]
  files.write_atomically(str(where.output / "texts.txt"), "".join(
      text + "\n" for text in hidden + sentences(where.text, num_texts)))
  heldout = text_files.read_texts(str(where.heldout), "heldout_file")
  files.write_atomically(str(where.output / "heldout.txt"), "".join(
      "\t".join(filter(None, (text.first, text.second))) + "\n"
      for text in heldout))


def write_starts(where: Files) -> None:
  """Writes the configs of the students, and the teacher's layers."""
  teacher = modeling.BertConfig.from_json_file(
      str(where.teacher / checkpoints.CONFIG_FILE))
  configs = {
      _SMALL: dataclasses.replace(
          teacher, num_hidden_layers=3, hidden_size=192,
          num_attention_heads=3, intermediate_size=768),
      _LAYERS: dataclasses.replace(
          teacher, num_hidden_layers=len(_KEPT_LAYERS))}
  for student, config in configs.items():
    where.student(student).mkdir(exist_ok=True)
    files.write_atomically(
        str(where.student(student) / checkpoints.CONFIG_FILE),
        config.to_json_string())
  path = where.student(_LAYERS) / checkpoints.CHECKPOINT_FILE
  if not path.with_name(path.name + ".index").exists():
    take_layers(configs[_LAYERS], where.teacher / checkpoints.CHECKPOINT_FILE,
                path)


def take_layers(config: modeling.BertConfig, source: pathlib.Path,
                path: pathlib.Path) -> None:
  """Writes a checkpoint of the layers _KEPT_LAYERS of a teacher.

  Args:
    config: config of the student.
    source: path of the teacher's checkpoint, without `.index`.
    path: path of the student's checkpoint, without `.index`.
  """
  with tf.Graph().as_default(), tf1.Session() as session:
    placeholder = tf1.placeholder_with_default(
        tf.zeros([1, 8], tf.int32), [None, None])
    modeling.BertModel(config, False, placeholder)
    checkpoints.restore(str(source), _KEPT_LAYERS)
    session.run(tf1.global_variables_initializer())
    tf1.train.Saver(tf1.trainable_variables()).save(
        session, str(path), write_meta_graph=False, write_state=False)


# --- Running -----------------------------------------------------------------


def run_script(**values: Any) -> None:
  """Runs fine_tune_classifier.py with flags; raises InputError if it fails."""
  command = [sys.executable, str(_SCRIPT), *(
      "--{}={}".format(name, value) for name, value in values.items())]
  logging.info("%s", " ".join(command[1:]))
  if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
    raise InputError("the command above failed; correct the error in its last "
                     "line, then run the same benchmark again")


def make_teacher(where: Files, size: int) -> None:
  """Fine-tunes the teacher, and writes the teacher's soft labels."""
  folder = where.output / "teacher_{}".format(size)
  run_script(
      bert_config_file=where.teacher / checkpoints.CONFIG_FILE,
      init_checkpoint=where.teacher / checkpoints.CHECKPOINT_FILE,
      vocab_file=where.teacher / "vocab.txt", train_file=where.labelled(size),
      eval_file=where.heldout, output_dir=folder,
      max_seq_length=_MAX_SEQ_LENGTH, **_RECIPES["teacher"])
  for name, path in (("texts.txt", where.soft(size)),
                     ("heldout.txt", where.heldout_soft(size))):
    run_script(output_dir=folder, predict_file=where.output / name,
               output_file=path)


def train(where: Files, run: Run) -> Dict[str, Any]:
  """Trains a student; returns its entry of results.json."""
  folder = where.output / "_".join(
      [where.student(run.student).name, run.method, str(run.size),
       "seed", str(run.seed)])
  values = dict(
      _RECIPES[run.student, run.method],
      bert_config_file=where.student(run.student) / checkpoints.CONFIG_FILE,
      vocab_file=where.teacher / "vocab.txt",
      train_file=where.labelled(run.size), eval_file=where.heldout,
      eval_soft_label_file=where.heldout_soft(run.size), output_dir=folder,
      max_seq_length=_MAX_SEQ_LENGTH, random_seed=run.seed)
  if run.student == _LAYERS:
    values["init_checkpoint"] = (
        where.student(run.student) / checkpoints.CHECKPOINT_FILE)
  if run.method == "distilled":
    values["soft_label_file"] = where.soft(run.size)
  start = time.monotonic()
  run_script(**values)
  seconds = time.monotonic() - start
  run_script(output_dir=folder, predict_file=where.output / "heldout.txt",
             output_file=folder / "heldout.tsv")
  return {**run._asdict(), "seconds": round(seconds, 1),
          "is_correct": is_correct(where, folder / "heldout.tsv"),
          **read_figures(folder)}


def read_figures(folder: pathlib.Path) -> Dict[str, float]:
  """Returns the accuracy of a classifier and its agreement with the teacher."""
  text = (folder / "eval_results.txt").read_text(encoding="utf-8")
  results = dict(line.split(" = ") for line in text.splitlines())
  return {name: float(results[name])
          for name in ("accuracy", "teacher_agreement") if name in results}


def is_correct(where: Files, path: pathlib.Path) -> str:
  """Returns "1" for each correct label of a held-out sentence, else "0".

  Args:
    where: paths of the inputs.
    path: path of a classifier's soft labels of the held-out sentences.

  Raises:
    InputError: if the soft labels are of other sentences.
  """
  truth = text_files.read_texts(str(where.heldout), "heldout_file")
  soft = soft_labels.read(str(path), "output_file")
  if [text._replace(label="") for text in truth] != soft.texts:
    raise InputError(
        "--heldout_file={} has other texts than {}; give the file that the "
        "benchmark began with, or another --output_dir".format(
            where.heldout, path))
  return "".join(
      str(int(soft.labels[row.argmax()] == text.label))
      for row, text in zip(soft.probabilities, truth))


def all_runs(sizes: Sequence[int], students: Sequence[str],
             seeds: Sequence[int]) -> Iterator[Run]:
  """Yields the runs of all sizes and students, seed after seed."""
  for seed in seeds:
    for size in sizes:
      for student in students:
        for method in _METHODS:
          yield Run(size, student, method, seed)


# --- Results -----------------------------------------------------------------


def bootstrap(hard: np.ndarray, distilled: np.ndarray, seed: int = 0
             ) -> Tuple[float, float, float]:
  """Compares two methods on the same sentences (Efron and Tibshirani 1993).

  Args:
    hard: bool [seeds, N], whether each sentence is classified correctly.
    distilled: the same for the other method.
    seed: seed of the resamples.

  Returns:
    The 95% interval of the difference of the mean accuracies over the seeds,
    and the share of resamples with a difference of 0 or less.
  """
  differences = distilled.mean(axis=0) - hard.mean(axis=0)
  generator = np.random.default_rng(seed)
  means = np.array([
      differences[generator.integers(len(differences), size=len(differences))]
      .mean() for _ in range(_NUM_RESAMPLES)])
  low, high = np.quantile(means, [0.025, 0.975])
  # Differences of 0 may have rounding errors.
  return float(low), float(high), float((means <= 1e-12).mean())


def summary(runs: Sequence[Dict[str, Any]]) -> str:
  """Returns a Markdown table with a row for each student and size."""
  lines = ["| student | labelled sentences | seeds | hard labels | distilled | "
           "difference | 95% interval | p |", "|---" * 8 + "|"]
  cells = dict.fromkeys((run["student"], run["size"]) for run in runs)
  for student, size in cells:
    found = {method: {run["seed"]: run for run in runs if (
        run["student"], run["size"], run["method"]) == (student, size, method)}
             for method in _METHODS}
    seeds = sorted(set(found["hard"]) & set(found["distilled"]))
    if not seeds:
      continue
    correct = [np.array([[letter == "1" for letter in
                          found[method][seed]["is_correct"]] for seed in seeds])
               for method in _METHODS]
    accuracies = [each.mean(axis=1).tolist() for each in correct]
    low, high, share = bootstrap(*correct)
    lines.append("| {} | {:,} | {} | {} | {} | {:+.4f} | {:+.4f} to {:+.4f} | "
                 "{:.4f} |".format(
                     student, size, len(seeds), *map(_mean, accuracies),
                     statistics.mean(accuracies[1])
                     - statistics.mean(accuracies[0]), low, high, share))
  return "\n".join(lines) + "\n"


def _mean(values: Sequence[float]) -> str:
  if len(values) == 1:
    return "{:.4f}".format(values[0])
  return "{:.4f} ± {:.4f}".format(
      statistics.mean(values), statistics.stdev(values))


def read_results(where: Files, inputs: Mapping[str, str]
                ) -> List[Dict[str, Any]]:
  """Reads the results of finished runs.

  Files of earlier versions are lists of runs, without fingerprints.

  Args:
    where: paths of the inputs and outputs.
    inputs: the return value of `fingerprints`.

  Raises:
    InputError: if the file is damaged, or if the runs have other inputs.
  """
  path = where.results
  if not path.exists():
    return []
  try:
    results = json.loads(path.read_text())
    if isinstance(results, list):
      logging.warning("%s has no fingerprints: make sure that its runs have "
                      "the same inputs.", path)
      return results
    noted, runs = results["inputs"], results["runs"]
  except (ValueError, TypeError, KeyError):
    raise InputError("--output_dir: {} is damaged; choose another folder"
                     .format(path)) from None
  for name, value in inputs.items():
    if noted.get(name) != value:
      raise InputError(
          "--{0} differs from the {0} of the runs in {1}; give the same {0} as "
          "before, or another --output_dir".format(name, path))
  return runs


def measure(where: Files, runs: Sequence[Run], done: List[Dict[str, Any]],
            inputs: Mapping[str, str]) -> List[Dict[str, Any]]:
  """Trains the students of unfinished runs; returns the results of all runs.

  Args:
    where: paths of the inputs and outputs.
    runs: the runs.
    done: results of finished runs; the function adds new results.
    inputs: the return value of `fingerprints`.
  """
  known = {Run(*(each[name] for name in Run._fields)) for each in done}
  have_teacher = set()
  for run in runs:
    if run in known:
      continue
    if run.size not in have_teacher:
      make_teacher(where, run.size)
      have_teacher.add(run.size)
    done.append(train(where, run))
    files.write_atomically(str(where.results), json.dumps(
        {"inputs": inputs, "runs": done}, indent=1) + "\n")
    logging.info("%s: accuracy %.4f", run, done[-1]["accuracy"])
  return done


def main() -> None:
  values = flags.FLAGS
  sizes = parse_numbers("sizes", values.sizes, 1)
  runs = list(all_runs(sizes, parse_students(values.students),
                       parse_numbers("seeds", values.seeds, 0)))
  where = Files(*(pathlib.Path(path) for path in (
      values.teacher_dir, values.train_file, values.heldout_file,
      values.text_file, values.output_dir)))
  inputs = fingerprints(where, values.num_texts)
  done = read_results(where, inputs)
  prepare(where, sizes, values.num_texts)
  sys.stdout.write(summary(measure(where, runs, done, inputs)))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "teacher_dir", "train_file", "heldout_file", "text_file", "output_dir"))
