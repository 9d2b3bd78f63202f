"""The results file, and the evaluation of checkpoints during training."""

import os
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence

from absl import logging
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from records.manifest import read_manifest, TeacherFigures
from util import files

RESULTS_FILE = "eval_results.txt"
# Folder in output_dir with the best checkpoint.
BEST_FOLDER = "best"
# Metrics that can choose the best checkpoint; lower is better.
BEST_BY = ("kl_from_teacher", "masked_lm_cross_entropy")
# File in BEST_FOLDER with the name of the checkpoint that was evaluated last.
_EVALUATED_FILE = "evaluated.txt"
# File in BEST_FOLDER that describes the records behind the results.
_EVALUATION_SET_FILE = "measured_on.txt"

# Evaluates the checkpoint with a path, None in all processes except rank 0;
# returns the results by key.
Evaluate = Callable[[Optional[str]], Dict[str, Any]]


def write_results(folders: Sequence[str], results: Mapping[str, Any],
                  checkpoint: str) -> None:
  """Writes a line `key = value` for each result, sorted, and logs the lines.

  Args:
    folders: folders to write the results file to.
    results: results by key.
    checkpoint: name of the evaluated checkpoint.
  """
  text = _format_results(dict(results, checkpoint=checkpoint))
  for folder in folders:
    files.make_folder(folder)
    files.write_atomically(os.path.join(folder, RESULTS_FILE), text)
  logging.info("%s:\n%s", os.path.join(folders[0], RESULTS_FILE),
               text.rstrip())


def _format_results(results: Mapping[str, Any]) -> str:
  return "".join("{} = {}\n".format(key, results[key])
                 for key in sorted(results))


def read_results(path: str) -> Dict[str, float]:
  """Returns the figures of a results file; an empty dict without a file."""
  if not files.exists(path):
    return {}
  results = dict(line.split(" = ", 1)
                 for line in files.read_text(path).splitlines())
  results.pop("checkpoint", None)
  return {key: float(value) for key, value in results.items()}


def teacher_results(paths: Sequence[str], num_records: int) -> Dict[str, Any]:
  """Returns the teacher's figures on held-out records, by key.

  Args:
    paths: paths of the record files, whose manifests hold the figures.
    num_records: number of records behind the student's figures.

  Returns:
    The teacher's accuracy and cross entropy on the masked tokens, and the
    numbers of records behind the student's and the teacher's figures; an empty
    dict if no manifest holds figures.
  """
  figures = TeacherFigures()
  for path in paths:
    figures += TeacherFigures.of_manifest(read_manifest(path))
  if not figures.num_tokens:
    return {}
  return {
      "num_records": num_records, "teacher_num_records": figures.num_records,
      "teacher_masked_lm_accuracy": figures.num_correct / figures.num_tokens,
      "teacher_masked_lm_cross_entropy":
          figures.cross_entropy / figures.num_tokens}


def warn_of_teacher(results: Mapping[str, Any]) -> None:
  """Warns if the student predicts masked tokens better than its teacher.

  Args:
    results: results by key, including `teacher_results`.
  """
  if (results.get("teacher_num_records")
      and results["masked_lm_accuracy"] > results["teacher_masked_lm_accuracy"]
      and results["masked_lm_cross_entropy"]
      < results["teacher_masked_lm_cross_entropy"]):
    logging.warning(
        "The student has passed its teacher: accuracy %.4f and cross entropy "
        "%.4f on %d held-out records; the teacher has %.4f and %.4f on %d. The "
        "teacher's labels now hold the student back: train with "
        "--hard_label_schedule=linear, which ends on hard labels alone.",
        results["masked_lm_accuracy"], results["masked_lm_cross_entropy"],
        results["num_records"], results["teacher_masked_lm_accuracy"],
        results["teacher_masked_lm_cross_entropy"],
        results["teacher_num_records"])


def _read_line(path: str) -> str:
  """Returns the text of a one-line file; "" without a file."""
  return files.read_text(path).strip() if files.exists(path) else ""


class BatchRange(NamedTuple):
  """The range of batches that a process evaluates.

  Attributes:
    first_record: index of the first record.
    num_records: number of records if all batches are full.
    num_batches: number of batches.
  """
  first_record: int
  num_records: int
  num_batches: int


def batch_range(num_batches: int, batch_size: int, rank: int, size: int
               ) -> BatchRange:
  """Returns a process's range of batches, formed as by a single process.

  Args:
    num_batches: number of all batches; the last may not be full.
    batch_size: number of records in a full batch.
    rank: rank of the process.
    size: number of processes.
  """
  first, end = (num_batches * number // size for number in (rank, rank + 1))
  return BatchRange(first * batch_size, (end - first) * batch_size, end - first)


class HeldOutListener(tf1.train.CheckpointSaverListener):
  """Evaluates each saved checkpoint and keeps the best one."""

  def __init__(self, evaluate: Evaluate, output_dir: str, evaluation_set: str,
               is_writer: bool = True, best_by: str = BEST_BY[0]):
    """Initialises the listener.

    Args:
      evaluate: evaluates a checkpoint in all processes together.
      output_dir: folder of the checkpoints.
      evaluation_set: description of the held-out records; only figures on equal
        records are compared.
      is_writer: whether this process has access to output_dir; otherwise it
        only takes part in the evaluations.
      best_by: one of `BEST_BY`.
    """
    self._evaluate = evaluate
    self._is_writer = is_writer
    self._best_by = best_by
    self._evaluation_set = evaluation_set
    self._output_dir = output_dir
    self._folder = os.path.join(output_dir, BEST_FOLDER)
    self._results_path = os.path.join(self._folder, RESULTS_FILE)
    self._evaluated_path = os.path.join(self._folder, _EVALUATED_FILE)
    self._evaluation_set_path = os.path.join(
        self._folder, _EVALUATION_SET_FILE)

  def after_save(self, session, global_step_value):
    """Evaluates the checkpoint that was just saved."""
    self.evaluate_newest()

  def is_newest_unevaluated(self) -> bool:
    """Returns whether a kill left the newest checkpoint unevaluated."""
    newest = tf.train.latest_checkpoint(self._output_dir)
    return _read_line(self._evaluated_path) != os.path.basename(newest)

  def is_best_outdated(self) -> bool:
    """Returns whether the best checkpoint's figures are of other records."""
    return bool(read_results(self._results_path)) and (
        _read_line(self._evaluation_set_path) != self._evaluation_set)

  def evaluate_best(self) -> None:
    """Evaluates the best checkpoint again, on the current records."""
    if not self._is_writer:
      self._evaluate(None)
      return
    step = int(read_results(self._results_path)["global_step"])
    name = "model.ckpt-{}".format(step)
    logging.info("Evaluating the best checkpoint again: the figures in %s are "
                 "of other records or of an earlier version.", self._folder)
    results = self._evaluate(os.path.join(self._folder, name))
    files.write_atomically(self._results_path, _format_results(
        dict(results, checkpoint=name)))
    self._write_evaluation_set()

  def _write_evaluation_set(self) -> None:
    files.write_atomically(
        self._evaluation_set_path, self._evaluation_set + "\n")

  def evaluate_newest(self) -> None:
    """Evaluates the newest checkpoint, and keeps it if it is the best."""
    if not self._is_writer:
      self._evaluate(None)
      return
    checkpoint = tf.train.latest_checkpoint(self._output_dir)
    results = self._evaluate(checkpoint)
    best = read_results(self._results_path)
    # After a kill in `_keep`, the best checkpoint itself is evaluated again.
    best_by = self._best_by
    is_best = (results[best_by] < best.get(best_by, float("inf"))
               or results["global_step"] == best.get("global_step"))
    logging.info(
        "Step %d, held out: %s %.4f%s, masked_lm_accuracy %.4f%s",
        results["global_step"], best_by, results[best_by],
        " (the best)" if is_best else "", results["masked_lm_accuracy"],
        ", teacher_top1_agreement {:.4f}".format(
            results["teacher_top1_agreement"])
        if "teacher_top1_agreement" in results else "")
    files.make_folder(self._folder)
    if not best:
      self._write_evaluation_set()
    if is_best:
      self._keep(checkpoint, results)
    files.write_atomically(
        self._evaluated_path, os.path.basename(checkpoint) + "\n")

  def _keep(self, checkpoint: str, results: Mapping[str, Any]) -> None:
    """Copies a checkpoint to BEST_FOLDER and removes the previous best.

    The results file, written after the copy, names the best checkpoint.
    """
    name = os.path.basename(checkpoint)
    # Data files are copied before and removed after their index, so that no
    # index lacks its data.
    for path in sorted(tf.io.gfile.glob(checkpoint + ".*")):
      files.copy_atomically(
          path, os.path.join(self._folder, os.path.basename(path)))
    files.write_atomically(self._results_path, _format_results(
        dict(results, checkpoint=name)))
    # TensorFlow expects a path relative to the current folder.
    path = os.path.join(self._folder, name)
    tf1.train.update_checkpoint_state(
        self._folder, path, all_model_checkpoint_paths=[path])
    for path in sorted(tf.io.gfile.glob(
        os.path.join(self._folder, "model.ckpt-*")), reverse=True):
      if not os.path.basename(path).startswith(name + "."):
        files.remove(path)
