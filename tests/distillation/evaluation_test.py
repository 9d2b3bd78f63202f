"""Tests of the results file and of the best checkpoint."""

import numpy as np
import pytest
import tensorflow as tf

from distillation import checkpoints
from distillation import evaluation
from records import manifest
from records import record_writer
import tiny
from util import files

_NAN = float("nan")


def test_results_are_written_sorted_by_key_and_read_back(tmp_path):
  folders = [str(tmp_path / "new"), str(tmp_path / "other")]
  evaluation.write_results(folders, {
      "loss": np.float32(1.25), "global_step": np.int64(7), "a_rate": 0.5},
                           "best/model.ckpt-7")
  for name in ("new", "other"):
    path = tmp_path / name / "eval_results.txt"
    assert path.read_text() == (
        "a_rate = 0.5\ncheckpoint = best/model.ckpt-7\nglobal_step = 7\n"
        "loss = 1.25\n")
    assert evaluation.read_results(str(path)) == {
        "a_rate": 0.5, "global_step": 7, "loss": 1.25}
  assert evaluation.read_results(str(tmp_path / "none.txt")) == {}


def _write_with_figures(path, figures):
  """Writes a file of one record; returns its path."""
  made_by = manifest.Manifest(
      stage="x", flags={}, fingerprints={}, sources={}, vocab_size=9,
      teacher=figures and manifest.TeacherFigures(*figures)._asdict())
  with record_writer.RecordWriter(str(path)) as writer:
    writer.write(b"record")
    writer.commit(made_by)
  return str(path)


def test_a_teachers_figures_are_means_over_masked_tokens(tmp_path):
  """Files whose manifests have no figures do not count."""
  paths = [_write_with_figures(tmp_path / name, figures) for name, figures in (
      ("a", (3, 10, 4, 25.0)), ("b", {}), ("c", (2, 6, 4, 7.0)))]
  assert evaluation.teacher_results(paths[1:2], 4) == {}
  assert evaluation.teacher_results(paths, 4) == {
      "num_records": 4, "teacher_num_records": 5,
      "teacher_masked_lm_accuracy": 0.5, "teacher_masked_lm_cross_entropy": 2.0}


@pytest.mark.parametrize("accuracy, cross_entropy, is_past", [
    (0.6, 1.9, True), (0.4, 1.9, False), (0.6, 2.1, False)])
def test_a_student_better_than_its_teacher_is_warned_of(
    caplog, accuracy, cross_entropy, is_past):
  results = {"masked_lm_accuracy": accuracy,
             "masked_lm_cross_entropy": cross_entropy}
  evaluation.warn_of_teacher(results)
  assert not caplog.text
  evaluation.warn_of_teacher({
      **results, "num_records": 4, "teacher_num_records": 5,
      "teacher_masked_lm_accuracy": 0.5, "teacher_masked_lm_cross_entropy": 2.0
  })
  assert ("--hard_label_schedule=linear" in caplog.text) == is_past
  assert ("on 4 held-out records" in caplog.text) == is_past


class _Run:
  """A training run that saves checkpoints, and their evaluation."""

  def __init__(self, folder, values, evaluation_set="5 records"):
    self.folder = folder
    self.evaluated = []
    self._values = values
    self.listener = evaluation.HeldOutListener(
        self._evaluate, str(folder), evaluation_set)

  def _evaluate(self, checkpoint):
    step = int(checkpoint.rpartition("-")[2])
    self.evaluated.append(step)
    return {"global_step": step, "kl_from_teacher": self._values[step],
            "masked_lm_accuracy": 0.5, "teacher_top1_agreement": 0.5}

  def save(self, step):
    path = tiny.write_checkpoint(
        self.folder / "model.ckpt-{}".format(step), {"x": np.float32(step)})
    tf.compat.v1.train.update_checkpoint_state(str(self.folder), str(path))

  def best_step(self):
    """Reads the best checkpoint; returns its step, or None without one."""
    path = checkpoints.best_checkpoint(str(self.folder))
    return int(tiny.read_checkpoint(path)["x"]) if path else None


@pytest.mark.parametrize("values, best_steps", [
    ([3.0, 1.0, 2.0, 0.5], [0, 1, 1, 3]),
    ([1.0, 1.0, 2.0], [0, 0, 0]),
    ([_NAN, 2.0, _NAN, 1.0], [None, 1, 1, 3]),
])
def test_the_best_checkpoint_is_kept(tmp_path, values, best_steps):
  run = _Run(tmp_path, values)
  for step, best_step in enumerate(best_steps):
    run.save(step)
    run.listener.after_save(None, step)
    assert run.best_step() == best_step
  best = tmp_path / "best"
  name = "model.ckpt-{}".format(best_step)
  assert tf.train.latest_checkpoint(str(best)) == str(best / name)
  assert {path.stem for path in best.glob("model.ckpt-*")} == {name}
  assert tiny.read_results(best)["kl_from_teacher"] == values[best_step]


def test_the_best_checkpoint_may_be_chosen_by_masked_lm_cross_entropy(tmp_path):
  """The results have no metrics of a teacher."""
  results = [
      {"global_step": step, "masked_lm_cross_entropy": value,
       "masked_lm_accuracy": 0.5} for step, value in enumerate([3, 1, 2])]
  listener = evaluation.HeldOutListener(
      lambda checkpoint: results[int(checkpoint.rpartition("-")[2])],
      str(tmp_path), "5 records", best_by="masked_lm_cross_entropy")
  run = _Run(tmp_path, [])
  for step in range(3):
    run.save(step)
    listener.after_save(None, step)
  assert run.best_step() == 1


def test_only_the_newest_checkpoint_may_lack_its_evaluation(tmp_path):
  run = _Run(tmp_path, [2.0, 1.0])
  run.save(0)
  run.listener.after_save(None, 0)
  assert not run.listener.is_newest_unevaluated()
  run.save(1)  # The run is killed before it evaluates this checkpoint.
  assert run.listener.is_newest_unevaluated()
  run.listener.evaluate_newest()
  assert not run.listener.is_newest_unevaluated()
  assert run.evaluated == [0, 1] and run.best_step() == 1


@pytest.mark.parametrize("has_note", [True, False])
def test_figures_of_other_records_are_not_compared(tmp_path, has_note):
  """The best checkpoint is evaluated again if its note does not match."""
  run = _Run(tmp_path, [2.0])
  run.save(0)
  run.listener.after_save(None, 0)
  assert not run.listener.is_best_outdated()
  if not has_note:  # Earlier versions wrote no note.
    (tmp_path / "best" / "measured_on.txt").unlink()
  run = _Run(tmp_path, [9.0, 8.0], "5 records" if not has_note else "3 records")
  assert run.listener.is_best_outdated()
  run.listener.evaluate_best()
  assert run.evaluated == [0]
  assert tiny.read_results(tmp_path / "best")["kl_from_teacher"] == 9.0
  assert not run.listener.is_best_outdated()
  # 8 is better than 9 on these records; 2 on the other records does not count.
  run.save(1)
  run.listener.after_save(None, 1)
  assert run.best_step() == 1


@pytest.mark.parametrize("num_copied", [0, 1, 2])
def test_a_kill_during_the_copy_keeps_the_previous_best_checkpoint(
    tmp_path, monkeypatch, num_copied):
  run = _Run(tmp_path, [2.0, 1.0])
  run.save(0)
  run.listener.after_save(None, 0)
  run.save(1)
  calls = []

  def step(function):
    def killed(*arguments):
      if len(calls) == num_copied:
        raise KeyboardInterrupt
      calls.append(function)
      function(*arguments)
    return killed

  with monkeypatch.context() as patch:
    for name in ("copy_atomically", "write_atomically"):
      patch.setattr(files, name, step(getattr(files, name)))
    with pytest.raises(KeyboardInterrupt):
      run.listener.after_save(None, 1)
  assert run.best_step() == 0
  assert run.listener.is_newest_unevaluated()
  run.listener.evaluate_newest()
  assert run.best_step() == 1
