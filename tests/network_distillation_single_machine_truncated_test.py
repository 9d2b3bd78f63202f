"""Tests of the script that trains on a single machine."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from distillation import checkpoints
from distillation import devices
from distillation import evaluation
from distillation import losses
from distillation import options
from distillation import training
import modeling
import processes
from records import schema
import reference_bert
import tiny
from util.command_line import InputError

_SCRIPT = "network_distillation_single_machine_truncated.py"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  return tiny.trainer_inputs(tmp_path_factory.mktemp("trainer"))


def _arguments(folder, output_dir, *more, **changes):
  values = dict({
      "bert_config_file": folder / "bert_config.json",
      "input_file": folder / "labelled.tfrecord",
      "output_dir": output_dir,
      "init_checkpoint": folder / "bert_model.ckpt",
      "truncation_factor": 4,
  }, **changes)
  return [*tiny.SHAPE_FLAGS, *more] + [
      "--{}={}".format(name, value) for name, value in values.items()
      if value is not None]


def test_help_lists_the_flags_with_their_defaults():
  wanted = {
      "bert_config_file": "required", "input_file": "required",
      "output_dir": "required", "init_checkpoint": "none",
      "truncation_factor": "10", "do_train": "False", "do_eval": "False",
      "max_seq_length": "128", "max_predictions_per_seq": "20",
      "train_batch_size": "32", "eval_batch_size": "8",
      "learning_rate": "5e-05", "num_train_steps": "100000",
      "num_warmup_steps": "10000", "save_checkpoints_steps": "1000",
      "iterations_per_loop": "1000", "max_eval_steps": "100",
      "use_tpu": "False", "tpu_name": "none", "tpu_zone": "none",
      "gcp_project": "none", "master": "none", "num_tpu_cores": "8",
      "hard_label_weight": "0.0", "temperature": "1.0", "tail_mass": "drop",
      "init_layers": "none", "eval_input_file": "none",
      "eval_every_checkpoint": "False", "keep_checkpoint_max": "5",
      "best_checkpoint_by": "kl_from_teacher",
      "hard_label_schedule": "constant", "final_hard_label_weight": "none",
      "random_seed": "12345", "precision": "fp32", "use_xla": "False",
      "gradient_accumulation_steps": "1",
  }
  result = tiny.run_script(_SCRIPT, "--help")
  assert result.returncode == 0
  shown = dict(
      line.strip(" -)").replace("default: ", "").split(" (")
      for line in result.stdout.splitlines() if line.startswith("  --"))
  assert {name: shown.get(name) for name in wanted} == wanted
  # The option objects have the same defaults.
  for group in (options.ModelOptions, options.RecordOptions,
                losses.LossOptions, options.ScheduleOptions,
                options.EvaluationOptions, devices.DeviceOptions,
                options.TpuOptions):
    for field in dataclasses.fields(group):
      default = {None: "none", dataclasses.MISSING: "required"}.get(
          field.default, str(field.default))
      assert shown.pop(field.name) == default
  assert set(shown) == {"output_dir", "do_train", "do_eval"}


@pytest.mark.slow
def test_training_equals_the_formulas(tmp_path, folder):
  """Ten steps on one repeated record, with and without hard labels."""
  features = tiny.random_features(np.random.default_rng(8))
  batch = reference_bert.batch([features] * 4)
  for weight in (0.0, 0.25):
    output_dir = tmp_path / str(weight)
    tiny.write_records(tmp_path / "one.tfrecord", [features])
    result = tiny.run_script(_SCRIPT, *_arguments(
        folder, output_dir, "--do_train", "True", "--do_eval", "True",
        input_file=tmp_path / "one.tfrecord", train_batch_size=4,
        learning_rate=0.01, num_train_steps=10, num_warmup_steps=3,
        hard_label_weight=weight))
    assert result.returncode == 0, result.stderr
    trained = tiny.read_checkpoint(output_dir / "model.ckpt-10")
    wanted = reference_bert.train(
        tiny.random_variables(), batch, tiny.CONFIG, 0.01, 10, 3, 10, weight)
    assert set(trained) == set(wanted) | {"global_step"}
    for name, value in wanted.items():
      np.testing.assert_allclose(trained[name], value, atol=1e-5, err_msg=name)
    moved = np.abs(trained["bert/embeddings/word_embeddings"]
                   - tiny.random_variables()["bert/embeddings/word_embeddings"])
    assert moved.max() > 0.005
    loss = reference_bert.loss(
        {name: wanted[name] for name in tiny.random_variables()},
        reference_bert.batch([features]), tiny.CONFIG, weight)
    assert tiny.read_results(output_dir)["loss"] == pytest.approx(
        float(loss), abs=1e-5)


def test_a_checkpoint_holds_the_variables_and_their_slots(tmp_path, folder):
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  tiny.write_config(tmp_path / "bert_config.json", config)
  result = tiny.run_script(_SCRIPT, *_arguments(
      folder, tmp_path / "out", "--do_train",
      bert_config_file=tmp_path / "bert_config.json", train_batch_size=2,
      num_train_steps=1, num_warmup_steps=0))
  assert result.returncode == 0, result.stderr
  assert "16 newly initialised: bert/encoder/layer_1/" in result.stderr
  wanted = modeling.variable_shapes(config)
  for name, shape in list(wanted.items()):
    wanted[name + "/adam_m"] = wanted[name + "/adam_v"] = shape
  wanted["global_step"] = []
  assert dict(tf.train.list_variables(
      str(tmp_path / "out" / "model.ckpt-1"))) == wanted


def test_metrics_equal_their_definitions(tmp_path, folder):
  """Covers means over slots, sequences and batches of unequal size."""
  arguments = _arguments(folder, tmp_path / "out", "--do_eval", "true",
                         "--do_train", "False", eval_batch_size=8)
  result = tiny.run_script(_SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  examples = tiny.random_examples(21, seed=5)
  variables = {name: np.float64(value)
               for name, value in tiny.random_variables().items()}
  batch = reference_bert.batch(examples)
  scores, next_scores = reference_bert.forward(variables, batch, tiny.CONFIG)
  is_slot = batch[schema.MASKED_LM_WEIGHTS].numpy() > 0
  log_probabilities = tf.nn.log_softmax(scores).numpy()[is_slot]
  token_ids = batch[schema.MASKED_LM_IDS].numpy()[is_slot]
  next_labels = batch[schema.NEXT_SENTENCE_LABELS].numpy()[:, 0]
  top = np.argsort(-log_probabilities, axis=-1)[:, :5]
  entries = batch[schema.TEACHER_INDICES].numpy()[is_slot]
  stored = batch[schema.TEACHER_PROBABILITIES].numpy()[is_slot]
  student = np.take_along_axis(np.exp(log_probabilities), entries, -1)
  confidences = np.exp(log_probabilities.max(-1))
  bins = (confidences * 15).astype(int)
  results = tiny.read_results(tmp_path / "out")
  assert results.pop("global_step") == 0
  assert results == pytest.approx({
      "loss": np.average([
          float(reference_bert.loss(
              variables, reference_bert.batch(examples[start:start + 8]),
              tiny.CONFIG)) for start in (0, 8, 16)], weights=(8, 8, 5)),
      "training_loss": (
          results["masked_lm_loss"] + results["next_sentence_loss"]),
      "masked_lm_accuracy": np.mean(log_probabilities.argmax(-1) == token_ids),
      "masked_lm_cross_entropy": -np.mean(
          log_probabilities[np.arange(len(token_ids)), token_ids]),
      "masked_lm_loss": -np.mean(np.sum(stored * np.log(student), -1)),
      "masked_lm_training_loss": results["masked_lm_loss"],
      "next_sentence_accuracy": np.mean(
          next_scores.numpy().argmax(-1) == next_labels),
      "next_sentence_loss": -np.mean(tf.nn.log_softmax(next_scores).numpy()[
          np.arange(21), next_labels]),
      "teacher_cross_entropy": results["masked_lm_loss"],
      "kl_from_teacher": np.mean(
          np.sum(stored * np.log(stored / student), -1)
          + (1 - stored.sum(-1)) * np.log(
              (1 - stored.sum(-1)) / (1 - student.sum(-1)))),
      "teacher_top1_agreement": np.mean(top[:, 0] == entries[:, 0]),
      "teacher_topk_precision": np.mean(
          [len(set(predicted) & set(found)) / 5
           for predicted, found in zip(top, entries)]),
      # The name of teacher_topk_precision in earlier versions.
      "teacher_topk_recall": results["teacher_topk_precision"],
      "expected_calibration_error": sum(
          abs(np.sum((log_probabilities.argmax(-1) == token_ids)[bins == bin]
                     - confidences[bins == bin])) / len(token_ids)
          for bin in range(15)),
  }, abs=1e-5)
  # --max_eval_steps=2 evaluates two batches, here of one record each.
  result = tiny.run_script(_SCRIPT, *_arguments(
      folder, tmp_path / "out", "--do_eval", eval_batch_size=1,
      max_eval_steps=2))
  assert result.returncode == 0, result.stderr
  results = tiny.read_results(tmp_path / "out")
  assert results["next_sentence_accuracy"] == np.mean(
      next_scores.numpy().argmax(-1)[:2] == next_labels[:2])


def test_metrics_equal_the_golden_results(tmp_path, shared):
  teacher = shared / "data/teacher"
  result = tiny.run_script(
      _SCRIPT, "--do_eval=True", "--max_eval_steps=8",
      "--bert_config_file", teacher / "bert_config.json",
      "--init_checkpoint", teacher / "bert_model.ckpt", "--input_file",
      shared / "golden/teacher_labels/expected.tfrecord",
      "--output_dir", tmp_path)
  assert result.returncode == 0, result.stderr
  wanted = evaluation.read_results(
      str(shared / "golden/eval/expected_eval_results.txt"))
  results = tiny.read_results(tmp_path)
  assert {key: results[key] for key in wanted} == pytest.approx(
      wanted, abs=1e-4)


@pytest.mark.slow
def test_training_on_hard_labels_needs_no_soft_labels(tmp_path, folder):
  path = tiny.write_records(
      tmp_path / "unlabelled.tfrecord",
      map(tiny.without_labels, tiny.random_examples(4, seed=0)))
  arguments = _arguments(
      folder, tmp_path / "out", "--do_train", "--do_eval", input_file=path,
      train_batch_size=2, num_train_steps=2, num_warmup_steps=0,
      hard_label_weight=1)
  result = tiny.run_script(_SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  results = tiny.read_results(tmp_path / "out")
  assert results["masked_lm_loss"] == results["masked_lm_cross_entropy"]


@pytest.mark.slow
def test_the_best_checkpoint_is_kept(tmp_path, folder):
  """Evaluates steps 0 to 4 of a run whose learning rate is too high."""
  held_out = tiny.write_records(
      tmp_path / "held_out.tfrecord", tiny.random_examples(7, seed=11))
  arguments = _arguments(
      folder, tmp_path / "out", "--do_train", "--do_eval",
      eval_every_checkpoint=True, eval_input_file=held_out, train_batch_size=2,
      num_train_steps=4, num_warmup_steps=0, learning_rate=0.5,
      save_checkpoints_steps=1)
  result = tiny.run_script(_SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  lines = [line for line in result.stderr.splitlines() if "held out" in line]
  found = [float(line.split("kl_from_teacher ")[1].split()[0].strip(","))
           for line in lines]
  assert len(found) == 5
  best = tmp_path / "out" / "best"
  results = tiny.read_results(best)
  assert results["kl_from_teacher"] == pytest.approx(min(found), abs=1e-4)
  step = found.index(min(found))
  assert results["global_step"] == step
  assert checkpoints.best_checkpoint(str(tmp_path / "out")) == str(
      best / "model.ckpt-{}".format(step)) == tf.train.latest_checkpoint(
          str(best))
  kept = tiny.read_checkpoint(best / "model.ckpt-{}".format(step))
  assert kept["global_step"] == step
  assert {path.name.split(".")[1] for path in best.glob("model*")} == {
      "ckpt-{}".format(step)}
  exported = tiny.read_checkpoint(
      tmp_path / "out" / "student" / "bert_model.ckpt")
  assert set(exported) == set(tiny.random_variables())
  for name, value in exported.items():
    np.testing.assert_array_equal(value, kept[name], err_msg=name)
  # The reported results are of the exported checkpoint.
  results = tiny.read_results(tmp_path / "out")
  assert results["global_step"] == step
  assert results["kl_from_teacher"] == pytest.approx(min(found), abs=1e-4)
  text = (tmp_path / "out" / "eval_results.txt").read_text()
  assert "checkpoint = best/model.ckpt-{}\n".format(step) in text
  assert (tmp_path / "out" / "student" / "eval_results.txt").read_text() == text
  # A kill may prevent the last evaluation; the next run then evaluates.
  shutil.rmtree(best)
  again = tiny.run_script(_SCRIPT, *arguments)
  assert again.returncode == 0 and "training is finished" in again.stderr
  assert again.stderr.count("held out") == 1
  assert tiny.read_results(best)["global_step"] == 4
  again = tiny.run_script(_SCRIPT, *arguments)
  assert again.returncode == 0 and again.stderr.count("held out") == 0
  # Step 4 is now the best checkpoint, since no other has an evaluation.
  results = tiny.read_results(tmp_path / "out")
  assert results["global_step"] == 4
  assert results["kl_from_teacher"] == pytest.approx(found[-1], abs=1e-4)


@pytest.mark.slow
def test_training_resumes_where_it_stopped(tmp_path, folder):
  def train(output_dir, num_steps, **changes):
    result = tiny.run_script(_SCRIPT, *_arguments(
        folder, output_dir, "--do_train", train_batch_size=2,
        num_train_steps=num_steps, num_warmup_steps=0, learning_rate=1e-3,
        save_checkpoints_steps=3, bert_config_file=folder / "with_dropout.json",
        **changes))
    assert result.returncode == 0, result.stderr
    return result.stderr

  train(tmp_path / "whole", 6)
  train(tmp_path / "resumed", 6)
  index = tmp_path / "resumed" / "model.ckpt-3.index"
  before = index.stat().st_mtime_ns
  # Leaves the files that a kill between steps 3 and 6 would leave.
  for path in (tmp_path / "resumed").glob("model.ckpt-6*"):
    path.unlink()
  (tmp_path / "resumed" / "checkpoint").write_text(
      'model_checkpoint_path: "model.ckpt-3"\n')
  assert "Resuming from step 3 of" in train(tmp_path / "resumed", 6)
  assert index.stat().st_mtime_ns == before, "saved over what it resumes from"
  whole, resumed = (tiny.read_checkpoint(tmp_path / name / "model.ckpt-6")
                    for name in ("whole", "resumed"))
  assert set(whole) == set(resumed)
  for name, value in whole.items():
    np.testing.assert_allclose(value, resumed[name], atol=1e-6, err_msg=name)
  before = sorted(os.listdir(tmp_path / "resumed"))
  assert "training is finished" in train(tmp_path / "resumed", 6)
  assert sorted(os.listdir(tmp_path / "resumed")) == before


def _start(folder, output_dir, **changes):
  """Starts a run of 400 steps that saves often."""
  return processes.Script(
      tiny.ROOT / _SCRIPT, *_arguments(
          folder, output_dir, "--do_train", **{
              "train_batch_size": 2, "num_train_steps": 400,
              "num_warmup_steps": 40, "learning_rate": 1e-3,
              "bert_config_file": folder / "with_dropout.json",
              "save_checkpoints_steps": 10, **changes}),
      stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_variables(tmp_path, folder):
  """Trains with dropout; kills the run while it saves at random steps."""
  generator = random.Random(3)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  process = _start(folder, whole)
  log = process.communicate()[1]
  assert process.returncode == 0, log
  for kill, pattern in enumerate((
      "model.ckpt-{}.*", "model.ckpt-{}.data*", "model.ckpt-{}.index*",
      "model.ckpt-{}.index", "none")):
    step = 10 * generator.randint(7 * kill + 1, 7 * kill + 7)
    with _start(folder, killed) as process:
      processes.wait_until(
          lambda: (any(killed.glob(pattern.format(step)))
                   or checkpoints.newest_step(str(killed)) >= step), process)
      process.kill()
  done = checkpoints.newest_step(str(killed))
  process = _start(folder, killed)
  log = process.communicate()[1]
  assert process.returncode == 0, log
  assert 0 < done < 400 and "Resuming from step {} of".format(done) in log
  whole, killed = (tiny.read_checkpoint(path / "model.ckpt-400")
                   for path in (whole, killed))
  assert set(whole) == set(killed)
  for name, value in whole.items():
    np.testing.assert_allclose(killed[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("number", [
    signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_a_checkpoint(tmp_path, folder, number):
  """Without the signal, the run would save at its start and end only."""
  process = _start(folder, tmp_path, num_train_steps=1000000,
                   save_checkpoints_steps=1000000)
  assert any("Step 100 of" in line for line in process.stderr)
  process.send_signal(number)
  last = process.communicate()[1].strip().splitlines()[-1]
  step = checkpoints.newest_step(str(tmp_path))
  assert process.returncode == 130
  assert step >= 100
  assert "step {} is saved in {}; the same command resumes from there".format(
      step, tmp_path) in last


@pytest.mark.slow
def test_a_second_trainer_is_refused_until_the_first_ends(tmp_path, folder):
  command = tiny.trainer_options(folder, tmp_path, do_eval=False)
  with _start(folder, tmp_path, num_train_steps=1000000) as process:
    assert any("Step 100 of" in line for line in process.stderr)
    with pytest.raises(InputError, match=r"{} is being written .*\(process {}\)"
                       .format(tmp_path, process.script_pid)):
      training.run(command)
    assert process.poll() is None
    process.kill()
  training.run(command)
  assert (tmp_path / "student").is_dir()


# Runs the trainer with a function of the graph that raises an error.
_SPY = """
import sys
sys.path.insert(0, {root!r})
from distillation import losses, options
from util import command_line
import network_distillation_single_machine_truncated as trainer

def fail(*unused_arguments):
  raise {error}("a message")

losses.masked_lm_losses = fail
options.define_flags()
command_line.run(trainer.main, required=options.REQUIRED_FLAGS)
"""


@pytest.mark.parametrize("error, has_traceback", [
    ("ValueError", True), ("command_line.InputError", False)])
def test_only_a_bug_shows_its_traceback(
    tmp_path, folder, error, has_traceback):
  script = tmp_path / "spy.py"
  script.write_text(_SPY.format(root=str(tiny.ROOT), error=error))
  result = tiny.run_script(script, *_arguments(
      folder, tmp_path / "out", "--do_train"))
  assert result.returncode == 1
  assert ("Traceback" in result.stderr) == has_traceback
  assert result.stderr.splitlines()[-1] == (
      "ValueError: a message" if has_traceback else "spy.py: error: a message")


def test_bad_input_ends_in_one_line(tmp_path, folder):
  result = tiny.run_script(_SCRIPT, *_arguments(folder, tmp_path / "out"))
  tiny.assert_one_line_error(result, "--do_train", "--do_eval")
  assert not (tmp_path / "out").exists()


def test_a_damaged_record_ends_without_traceback(tmp_path, folder):
  content = (folder / "labelled.tfrecord").read_bytes()
  path = tmp_path / "cut.tfrecord"
  path.write_bytes(content[:-20])
  result = tiny.run_script(_SCRIPT, *_arguments(
      folder, tmp_path / "out", "--do_train", input_file=path,
      num_train_steps=40, train_batch_size=2))
  assert result.returncode == 1 and "Traceback" not in result.stderr
  assert "cut.tfrecord is damaged or not a TFRecord file (cut record at" in (
      result.stderr.splitlines()[-1])
