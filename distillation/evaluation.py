"""Evaluation: the results file, and checkpoints while training goes along."""

import os
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence

from absl import logging
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from records.manifest import read_manifest, TeacherFigures
from util import files

RESULTS_FILE = "eval_results.txt"
# Folder in output_dir of the best checkpoint.
BEST_FOLDER = "best"
# Metrics, one of which is lowest at the best checkpoint.
BEST_BY = ("kl_from_teacher", "masked_lm_cross_entropy")
# File in the folder with the name of the checkpoint that was evaluated last.
_EVALUATED_FILE = "evaluated.txt"
# File in the folder that names the records that the results are of.
_MEASURED_ON_FILE = "measured_on.txt"

# Evaluates a checkpoint; returns its results by key. Processes that do not see
# the checkpoint give None.
Evaluate = Callable[[Optional[str]], Dict[str, Any]]


def write_results(folders: Sequence[str], results: Mapping[str, Any],
                  checkpoint: str) -> None:
  """Writes one line `key = value` for each result, by key, and logs them.

  Args:
    folders: those that get the results file.
    results: by key.
    checkpoint: name of the checkpoint that the results are of.
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
  """Reads the figures that `write_results` wrote; none without a file."""
  if not files.exists(path):
    return {}
  results = dict(line.split(" = ", 1)
                 for line in files.read_text(path).splitlines())
  results.pop("checkpoint", None)
  return {key: float(value) for key, value in results.items()}


def teacher_results(paths: Sequence[str], num_records: int) -> Dict[str, Any]:
  """Returns the teacher's own figures on held-out records, by key.

  Args:
    paths: the record files, whose manifests have the figures.
    num_records: records that the student's figures cover.

  Returns:
    The teacher's accuracy and cross entropy on the masked tokens, and the
    numbers of records that the student's and the teacher's figures cover;
    nothing where no manifest has the figures.
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
  """Warns of a student that predicts masked tokens better than its teacher.

  Args:
    results: by key, those of `teacher_results` among them.
  """
  if (results.get("teacher_num_records")
      and results["masked_lm_accuracy"] > results["teacher_masked_lm_accuracy"]
      and results["masked_lm_cross_entropy"]
      < results["teacher_masked_lm_cross_entropy"]):
    logging.warning(
        "The student has passed its teacher: accuracy %.4f and cross entropy "
        "%.4f on %d held-out records; the teacher has %.4f and %.4f on %d. Its "
        "labels now hold the student back: train with --hard_label_schedule="
        "linear, which ends on the masked tokens alone.",
        results["masked_lm_accuracy"], results["masked_lm_cross_entropy"],
        results["num_records"], results["teacher_masked_lm_accuracy"],
        results["teacher_masked_lm_cross_entropy"],
        results["teacher_num_records"])


def _read_line(path: str) -> str:
  """Returns the text of a file of one line; nothing without a file."""
  return files.read_text(path).strip() if files.exists(path) else ""


class Share(NamedTuple):
  """What one of several processes evaluates.

  Attributes:
    first_record: the first of its records.
    num_records: how many they are; the last batch may have fewer.
    num_batches: how many batches they make.
  """
  first_record: int
  num_records: int
  num_batches: int


def share(num_batches: int, batch_size: int, rank: int, size: int) -> Share:
  """Deals batches out in contiguous ranges, as one process would form them.

  Args:
    num_batches: how many there are; the last one may not be full.
    batch_size: records in a full batch.
    rank: the process that the share is for.
    size: how many processes there are.
  """
  first, end = (num_batches * number // size for number in (rank, rank + 1))
  return Share(first * batch_size, (end - first) * batch_size, end - first)


class HeldOutListener(tf1.train.CheckpointSaverListener):
  """Evaluates each checkpoint as it is saved and keeps the best one."""

  def __init__(self, evaluate: Evaluate, output_dir: str, measured_on: str,
               is_writer: bool = True, best_by: str = BEST_BY[0]):
    """Prepares the evaluations.

    Args:
      evaluate: what evaluates a checkpoint, in all processes together.
      output_dir: folder of the checkpoints.
      measured_on: what the figures depend on beside the checkpoint; figures of
        other records are not compared.
      is_writer: False only takes part in the evaluations; the folder is that of
        another process.
      best_by: one of `BEST_BY`.
    """
    self._evaluate = evaluate
    self._is_writer = is_writer
    self._best_by = best_by
    self._measured_on = measured_on
    self._output_dir = output_dir
    self._folder = os.path.join(output_dir, BEST_FOLDER)
    self._results_path = os.path.join(self._folder, RESULTS_FILE)
    self._evaluated_path = os.path.join(self._folder, _EVALUATED_FILE)
    self._measured_on_path = os.path.join(self._folder, _MEASURED_ON_FILE)

  def after_save(self, session, global_step_value):
    self.evaluate_newest()

  def is_behind(self) -> bool:
    """Returns whether a kill has prevented the newest one's evaluation."""
    newest = tf.train.latest_checkpoint(self._output_dir)
    return _read_line(self._evaluated_path) != os.path.basename(newest)

  def is_best_of_others(self) -> bool:
    """Returns whether the best checkpoint's figures are of other records."""
    return bool(read_results(self._results_path)) and (
        _read_line(self._measured_on_path) != self._measured_on)

  def measure_best(self) -> None:
    """Evaluates the best checkpoint again, on the present records."""
    if not self._is_writer:
      self._evaluate(None)
      return
    step = int(read_results(self._results_path)["global_step"])
    name = "model.ckpt-{}".format(step)
    logging.info("%s was measured on other records than now, or an earlier "
                 "version has kept it: it is measured again.", self._folder)
    results = self._evaluate(os.path.join(self._folder, name))
    files.write_atomically(self._results_path, _format_results(
        dict(results, checkpoint=name)))
    files.write_atomically(self._measured_on_path, self._measured_on + "\n")

  def evaluate_newest(self) -> None:
    """Evaluates the newest checkpoint; the best one is kept."""
    if not self._is_writer:
      self._evaluate(None)
      return
    checkpoint = tf.train.latest_checkpoint(self._output_dir)
    results = self._evaluate(checkpoint)
    best = read_results(self._results_path)
    # The best so far itself comes again where a kill has cut `_keep` short.
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
      files.write_atomically(self._measured_on_path, self._measured_on + "\n")
    if is_best:
      self._keep(checkpoint, results)
    files.write_atomically(
        self._evaluated_path, os.path.basename(checkpoint) + "\n")

  def _keep(self, checkpoint: str, results: Mapping[str, Any]) -> None:
    """Copies a checkpoint; the results, written last, say which one counts."""
    name = os.path.basename(checkpoint)
    # The data come before the index, so that no index lacks its data; and so
    # in the other order when the former best goes.
    for path in sorted(tf.io.gfile.glob(checkpoint + ".*")):
      files.copy_atomically(
          path, os.path.join(self._folder, os.path.basename(path)))
    files.write_atomically(self._results_path, _format_results(
        dict(results, checkpoint=name)))
    # TensorFlow takes the path as seen from the current folder.
    path = os.path.join(self._folder, name)
    tf1.train.update_checkpoint_state(
        self._folder, path, all_model_checkpoint_paths=[path])
    for path in sorted(tf.io.gfile.glob(
        os.path.join(self._folder, "model.ckpt-*")), reverse=True):
      if not os.path.basename(path).startswith(name + "."):
        files.remove(path)
