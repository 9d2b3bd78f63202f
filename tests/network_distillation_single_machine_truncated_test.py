"""Tests of the single-machine trainer, as a script."""

import collections
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

import modeling
import records
import reference_bert
import tiny
import training

_SCRIPT = "network_distillation_single_machine_truncated.py"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Configs, a checkpoint and 21 labelled records of one model."""
  folder = tmp_path_factory.mktemp("trainer")
  tiny.write_config(folder / "bert_config.json")
  tiny.write_config(folder / "with_dropout.json", hidden_dropout_prob=0.3,
                    attention_probs_dropout_prob=0.3)
  tiny.write_checkpoint(folder / "bert_model.ckpt", tiny.random_variables())
  generator = np.random.default_rng(5)
  tiny.write_records(folder / "labelled.tfrecord", [
      tiny.random_features(generator) for _ in range(21)])
  return folder


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


def _results(output_dir):
  """Reads eval_results.txt."""
  lines = (output_dir / training.EVALUATION_RESULTS).read_text().splitlines()
  return {key: float(value)
          for key, value in (line.split(" = ") for line in lines)}


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
      "random_seed": "12345", "precision": "fp32", "use_xla": "False",
      "gradient_accumulation_steps": "1",
  }
  result = tiny.run_script(_SCRIPT, "--help")
  assert result.returncode == 0
  shown = dict(
      line.strip(" -)").replace("default: ", "").split(" (")
      for line in result.stdout.splitlines() if line.startswith("  --"))
  assert {name: shown.get(name) for name in wanted} == wanted


def test_training_equals_the_formulas(tmp_path, folder):
  """Ten steps on a batch of one repeated record, with and without words."""
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
    assert _results(output_dir)["loss"] == pytest.approx(float(loss), abs=1e-5)


def test_a_checkpoint_holds_the_variables_and_their_slots(tmp_path, folder):
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  tiny.write_config(tmp_path / "bert_config.json", config)
  result = tiny.run_script(_SCRIPT, *_arguments(
      folder, tmp_path / "out", "--do_train",
      bert_config_file=tmp_path / "bert_config.json", train_batch_size=2,
      num_train_steps=1, num_warmup_steps=0))
  assert result.returncode == 0, result.stderr
  assert "16 afresh" in result.stderr
  wanted = modeling.variable_shapes(config)
  for name, shape in list(wanted.items()):
    wanted[name + "/adam_m"] = wanted[name + "/adam_v"] = shape
  wanted["global_step"] = []
  assert dict(tf.train.list_variables(
      str(tmp_path / "out" / "model.ckpt-1"))) == wanted


def test_evaluation_averages_as_stated(tmp_path, folder):
  """Means over slots, sequences and batches, the last batch a smaller one."""
  arguments = _arguments(folder, tmp_path / "out", "--do_eval", "true",
                         "--do_train", "False", eval_batch_size=8)
  result = tiny.run_script(_SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  generator = np.random.default_rng(5)
  examples = [tiny.random_features(generator) for _ in range(21)]
  variables = {name: np.float64(value)
               for name, value in tiny.random_variables().items()}
  batch = reference_bert.batch(examples)
  scores, next_scores = reference_bert.forward(variables, batch, tiny.CONFIG)
  is_slot = batch[records.MASKED_LM_WEIGHTS].numpy() > 0
  log_probabilities = tf.nn.log_softmax(scores).numpy()[is_slot]
  words = batch[records.MASKED_LM_IDS].numpy()[is_slot]
  next_labels = batch[records.NEXT_SENTENCE_LABELS].numpy()[:, 0]
  top = np.argsort(-log_probabilities, axis=-1)[:, :5]
  entries = batch[records.TEACHER_INDICES].numpy()[is_slot]
  stored = batch[records.TEACHER_PROBABILITIES].numpy()[is_slot]
  student = np.take_along_axis(np.exp(log_probabilities), entries, -1)
  confidences = np.exp(log_probabilities.max(-1))
  bins = (confidences * 15).astype(int)
  results = _results(tmp_path / "out")
  assert results.pop("global_step") == 0
  assert results == pytest.approx({
      "loss": np.mean([
          float(reference_bert.loss(
              variables, reference_bert.batch(examples[start:start + 8]),
              tiny.CONFIG)) for start in (0, 8, 16)]),
      "masked_lm_accuracy": np.mean(log_probabilities.argmax(-1) == words),
      "masked_lm_cross_entropy": -np.mean(
          log_probabilities[np.arange(len(words)), words]),
      "masked_lm_loss": -np.mean(np.sum(
          np.take_along_axis(
              log_probabilities,
              batch[records.TEACHER_INDICES].numpy()[is_slot], -1)
          * batch[records.TEACHER_PROBABILITIES].numpy()[is_slot], -1)),
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
      "teacher_topk_recall": np.mean(
          [len(set(words) & set(found)) / 5
           for words, found in zip(top, entries)]),
      "expected_calibration_error": sum(
          abs(np.sum((log_probabilities.argmax(-1) == words)[bins == bin]
                     - confidences[bins == bin])) / len(words)
          for bin in range(15)),
  }, abs=1e-5)
  # At most max_eval_steps batches: two of one record each.
  tiny.run_script(_SCRIPT, *_arguments(
      folder, tmp_path / "out", "--do_eval", eval_batch_size=1,
      max_eval_steps=2))
  assert _results(tmp_path / "out")["next_sentence_accuracy"] == np.mean(
      next_scores.numpy().argmax(-1)[:2] == next_labels[:2])


def test_the_golden_evaluation(tmp_path, shared):
  teacher = shared / "data/teacher"
  result = tiny.run_script(
      _SCRIPT, "--do_eval=True", "--max_eval_steps=8",
      "--bert_config_file", teacher / "bert_config.json",
      "--init_checkpoint", teacher / "bert_model.ckpt", "--input_file",
      shared / "golden/teacher_labels/expected.tfrecord",
      "--output_dir", tmp_path)
  assert result.returncode == 0, result.stderr
  lines = (shared / "golden/eval/expected_eval_results.txt").read_text()
  for key, value in (line.split(" = ") for line in lines.splitlines()):
    assert _results(tmp_path)[key] == pytest.approx(float(value), abs=1e-4)


def test_hard_labels_alone_need_no_teacher(tmp_path, folder):
  generator = np.random.default_rng(0)
  examples = [tiny.random_features(generator) for _ in range(4)]
  for features in examples:
    del features[records.TEACHER_PROBABILITIES]
    del features[records.TEACHER_INDICES]
  path = tiny.write_records(tmp_path / "unlabelled.tfrecord", examples)
  arguments = _arguments(
      folder, tmp_path / "out", "--do_train", "--do_eval", input_file=path,
      train_batch_size=2, num_train_steps=2, num_warmup_steps=0,
      hard_label_weight=1)
  result = tiny.run_script(_SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  results = _results(tmp_path / "out")
  assert results["masked_lm_loss"] == results["masked_lm_cross_entropy"]


def test_the_best_checkpoint_is_kept(tmp_path, folder):
  """Of steps 0 to 4 at a rate that is far too high, on other records."""
  generator = np.random.default_rng(11)
  heldout = tiny.write_records(tmp_path / "heldout.tfrecord", [
      tiny.random_features(generator) for _ in range(7)])
  arguments = _arguments(
      folder, tmp_path / "out", "--do_train", "--do_eval",
      eval_every_checkpoint=True, eval_input_file=heldout, train_batch_size=2,
      num_train_steps=4, num_warmup_steps=0, learning_rate=0.5,
      save_checkpoints_steps=1)
  result = tiny.run_script(_SCRIPT, *arguments)
  assert result.returncode == 0, result.stderr
  lines = [line for line in result.stderr.splitlines() if "held out" in line]
  found = [float(line.split("kl_from_teacher ")[1].split()[0].strip(","))
           for line in lines]
  assert len(found) == 5
  best = tmp_path / "out" / "best"
  results = training.read_results(str(best / "eval_results.txt"))
  assert results["kl_from_teacher"] == pytest.approx(min(found), abs=1e-4)
  step = found.index(min(found))
  assert results["global_step"] == step
  assert training.best_checkpoint(str(tmp_path / "out")) == str(
      best / "model.ckpt-{}".format(step)) == tf.train.latest_checkpoint(
          str(best))
  kept = tiny.read_checkpoint(best / "model.ckpt-{}".format(step))
  assert kept["global_step"] == step
  assert {path.name.split(".")[1] for path in best.glob("model*")} == {
      "ckpt-{}".format(step)}
  released = tiny.read_checkpoint(
      tmp_path / "out" / "student" / "bert_model.ckpt")
  assert set(released) == set(tiny.random_variables())
  for name, value in released.items():
    np.testing.assert_array_equal(value, kept[name], err_msg=name)
  # A checkpoint whose evaluation a kill cut short is evaluated later.
  shutil.rmtree(best)
  again = tiny.run_script(_SCRIPT, *arguments)
  assert again.returncode == 0 and "training is finished" in again.stderr
  assert again.stderr.count("held out") == 1
  assert training.read_results(str(best / "eval_results.txt"))[
      "global_step"] == 4
  again = tiny.run_script(_SCRIPT, *arguments)
  assert again.stderr.count("held out") == 0
  # The newest checkpoint is what is evaluated at the end.
  assert _results(tmp_path / "out")["global_step"] == 4
  assert _results(tmp_path / "out")["kl_from_teacher"] == pytest.approx(
      found[-1], abs=1e-4)


def test_training_goes_on_where_it_stopped(tmp_path, folder):
  def train(output_dir, num_steps, **changes):
    result = tiny.run_script(_SCRIPT, *_arguments(
        folder, output_dir, "--do_train", train_batch_size=2,
        num_train_steps=num_steps, num_warmup_steps=0, learning_rate=1e-3,
        save_checkpoints_steps=3, bert_config_file=folder / "with_dropout.json",
        **changes))
    assert result.returncode == 0, result.stderr
    return result.stderr

  train(tmp_path / "whole", 6)
  train(tmp_path / "parts", 6)
  index = tmp_path / "parts" / "model.ckpt-3.index"
  before = index.stat().st_mtime_ns
  # As a kill between the steps 3 and 6 leaves it.
  for path in (tmp_path / "parts").glob("model.ckpt-6*"):
    path.unlink()
  (tmp_path / "parts" / "checkpoint").write_text(
      'model_checkpoint_path: "model.ckpt-3"\n')
  assert "behind step 3" in train(tmp_path / "parts", 6)
  assert index.stat().st_mtime_ns == before, "saved over what it goes on from"
  whole, parts = (tiny.read_checkpoint(tmp_path / name / "model.ckpt-6")
                  for name in ("whole", "parts"))
  assert set(whole) == set(parts)
  for name, value in whole.items():
    np.testing.assert_allclose(value, parts[name], atol=1e-6, err_msg=name)
  before = sorted(os.listdir(tmp_path / "parts"))
  assert "training is finished" in train(tmp_path / "parts", 6)
  assert sorted(os.listdir(tmp_path / "parts")) == before


def _start(folder, output_dir, **changes):
  """Starts a run of 400 steps that saves often."""
  return subprocess.Popen(
      [sys.executable, str(tiny.ROOT / _SCRIPT)] + list(map(str, _arguments(
          folder, output_dir, "--do_train", **dict({
              "train_batch_size": 2, "num_train_steps": 400,
              "num_warmup_steps": 40, "learning_rate": 1e-3,
              "bert_config_file": folder / "with_dropout.json",
              "save_checkpoints_steps": 10}, **changes)))),
      stderr=subprocess.PIPE, text=True)


def _wait_for_step(process, output_dir, step):
  """Waits until a checkpoint of the step or a later one is there."""
  for _ in range(6000):
    if process.poll() is not None or training._newest_step(
        str(output_dir)) >= step:
      return
    time.sleep(0.01)
  raise AssertionError("no checkpoint of step {} came".format(step))


def test_kills_at_random_moments_change_nothing(tmp_path, folder):
  """Variables, slots and steps end as without kills, dropout included."""
  generator = random.Random(3)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  assert _start(folder, whole).wait() == 0
  for kill in range(5):
    process = _start(folder, killed)
    _wait_for_step(process, killed, 10 + 75 * kill)
    time.sleep(generator.random() * 0.2)
    process.kill()
    process.wait()
  done = training._newest_step(str(killed))
  process = _start(folder, killed)
  log = process.communicate()[1]
  assert process.returncode == 0, log
  assert done < 400 and "goes on behind step {}".format(done) in log
  whole, killed = (tiny.read_checkpoint(path / "model.ckpt-400")
                   for path in (whole, killed))
  assert set(whole) == set(killed)
  for name, value in whole.items():
    np.testing.assert_allclose(killed[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first(tmp_path, folder, number):
  process = _start(folder, tmp_path, num_train_steps=1000000,
                   save_checkpoints_steps=500)
  _wait_for_step(process, tmp_path, 500)
  time.sleep(0.3)  # The step behind the save may begin.
  process.send_signal(number)
  last = process.communicate()[1].strip().splitlines()[-1]
  step = training._newest_step(str(tmp_path))
  assert process.returncode == 130
  assert step % 500, "saved only where it saves anyway"
  assert ("step {} is saved in {}; run the same command again to go on".format(
      step, tmp_path)) in last


def test_the_student_is_a_release_like_googles(tmp_path, folder):
  """The project's own extractor reads it, as whatever reads Google's does."""
  values = _Flags(folder, tmp_path / "out", do_eval=False)
  training.run(values)
  student = tmp_path / "out" / "student"
  assert sorted(path.name for path in student.iterdir()) == [
      "bert_config.json", "bert_model.ckpt.data-00000-of-00001",
      "bert_model.ckpt.index"]
  assert (student / "bert_config.json").read_bytes() == (
      folder / "bert_config.json").read_bytes()
  newest = tiny.read_checkpoint(tmp_path / "out" / "model.ckpt-2")
  released = tiny.read_checkpoint(student / "bert_model.ckpt")
  assert set(released) == set(tiny.random_variables())
  for name, value in released.items():
    np.testing.assert_array_equal(value, newest[name], err_msg=name)
  result = tiny.run_script(
      "extract_teacher_labels_truncated.py", *tiny.SHAPE_FLAGS,
      "--bert_config_file", student / "bert_config.json",
      "--init_checkpoint", student / "bert_model.ckpt",
      "--input_file", folder / "labelled.tfrecord",
      "--output_file", tmp_path / "labelled.tfrecord")
  assert result.returncode == 0, result.stderr
  # What a crash in the last moment leaves is put right by the next run.
  student.rename(tmp_path / "out" / ".student.replaced.partial")
  (tmp_path / "out" / ".student.partial").mkdir()
  training.run(values)
  assert (student / "bert_model.ckpt.index").exists()
  assert not list((tmp_path / "out").glob(".*"))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, folder):
  """A record whose label is no number; the start is fine."""
  generator = np.random.default_rng(5)
  examples = [tiny.random_features(generator) for _ in range(6)]
  examples[2][records.TEACHER_PROBABILITIES][0, 0] = np.nan
  path = tiny.write_records(tmp_path / "labelled.tfrecord", examples)
  with pytest.raises(
      ValueError, match="no number any more at step [1-6];.*--learning_rate"):
    training.run(_Flags(
        folder, tmp_path / "out", input_file=str(path), train_batch_size=1,
        num_train_steps=100, save_checkpoints_steps=1))
  saved = sorted((tmp_path / "out").glob("model.ckpt-*.index"))
  assert len(saved) > 1
  for checkpoint in saved:
    for name, value in tiny.read_checkpoint(
        checkpoint.with_suffix("")).items():
      assert np.all(np.isfinite(value)), name


def test_a_seed_fixes_the_run(tmp_path, folder):
  """Fresh weights, dropout and the order of records; and checkpoints kept."""
  trained = {}
  for name, seed in (("first", 7), ("again", 7), ("other", 8)):
    training.run(_Flags(
        folder, tmp_path / name, do_eval=False,
        bert_config_file=str(folder / "with_dropout.json"),
        init_checkpoint=None, num_train_steps=6, save_checkpoints_steps=1,
        keep_checkpoint_max=2, random_seed=seed))
    trained[name] = tiny.read_checkpoint(tmp_path / name / "model.ckpt-6")
    assert len(list((tmp_path / name).glob("*.index"))) == 2
  for name, value in trained["first"].items():
    np.testing.assert_array_equal(trained["again"][name], value, err_msg=name)
  name = "bert/pooler/dense/kernel"
  assert not np.allclose(trained["first"][name], trained["other"][name])


def test_parts_of_a_batch_make_one_step(tmp_path, folder):
  """Variables and slots equal those of the batch in one piece."""
  trained = {}
  for name, batch_size, num_parts in (("whole", 6, 1), ("parts", 2, 3)):
    training.run(_Flags(
        folder, tmp_path / name, do_eval=False, train_batch_size=batch_size,
        gradient_accumulation_steps=num_parts, num_train_steps=5,
        learning_rate=0.01))
    trained[name] = tiny.read_checkpoint(tmp_path / name / "model.ckpt-5")
  assert set(trained["whole"]) == set(trained["parts"])
  assert trained["parts"]["global_step"] == 5
  for name, value in trained["whole"].items():
    np.testing.assert_allclose(
        trained["parts"][name], value, atol=1e-5, err_msg=name)


def test_other_precisions_train_and_save_float32(tmp_path, folder):
  """On devices without such arithmetic too."""
  trained = {}
  for precision in modeling.PRECISIONS:
    training.run(_Flags(
        folder, tmp_path / precision, do_eval=False, num_train_steps=5,
        learning_rate=0.01, precision=precision))
    trained[precision] = tiny.read_checkpoint(
        tmp_path / precision / "model.ckpt-5")
  for precision in ("bf16", "fp16"):
    assert set(trained[precision]) == set(trained["fp32"])
    for name, value in trained["fp32"].items():
      assert trained[precision][name].dtype == value.dtype
      # Adam's first steps go as far for tiny gradients as for large ones.
      np.testing.assert_allclose(
          np.mean(np.abs(trained[precision][name] - value)), 0, atol=0.02)


def test_curves_for_tensorboard(tmp_path, folder):
  training.run(_Flags(
      folder, tmp_path, num_train_steps=101, num_warmup_steps=10,
      save_checkpoints_steps=101, eval_every_checkpoint=True))

  def curves(pattern):
    found = collections.defaultdict(dict)
    for path in tmp_path.glob(pattern):
      for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
          found[value.tag][event.step] = value.simple_value
    return found

  assert {"loss", "kl_from_teacher", "masked_lm_accuracy"} < set(
      curves("eval/events*"))
  found = curves("events*")
  assert 101 in found["sequences_per_second"]
  for step in (1, 101):
    assert found["loss"][step] == pytest.approx(
        found["masked_lm_loss"][step] + found["next_sentence_loss"][step],
        rel=1e-5)
    assert found["gradient_norm"][step] > 0
  # Step 101 is made with 100 steps done.
  assert found["learning_rate"][101] == pytest.approx(1e-3 / 101, rel=1e-4)


def test_bad_input_is_one_line(tmp_path, folder):
  result = tiny.run_script(_SCRIPT, *_arguments(folder, tmp_path / "out"))
  tiny.assert_one_line_error(result, "--do_train", "--do_eval")
  assert not (tmp_path / "out").exists()


class _Flags:
  """Flags as attributes, with the defaults of a run on the tiny model."""

  def __init__(self, folder, output_dir, **changes):
    vars(self).update({
        "bert_config_file": str(folder / "bert_config.json"),
        "input_file": str(folder / "labelled.tfrecord"),
        "output_dir": str(output_dir),
        "init_checkpoint": str(folder / "bert_model.ckpt"),
        "max_seq_length": 10, "max_predictions_per_seq": 3,
        "truncation_factor": 4, "hard_label_weight": 0.0, "temperature": 1.0,
        "tail_mass": "drop", "init_layers": None,
        "eval_input_file": None, "eval_every_checkpoint": False,
        "do_train": True,
        "do_eval": True, "learning_rate": 1e-3, "num_train_steps": 2,
        "num_warmup_steps": 0, "train_batch_size": 2, "eval_batch_size": 8,
        "save_checkpoints_steps": 100, "keep_checkpoint_max": 5,
        "random_seed": 12345, "precision": "fp32", "use_xla": False,
        "gradient_accumulation_steps": 1, "iterations_per_loop": 100,
        "max_eval_steps": 100, "use_tpu": False, "tpu_name": None,
        "master": None, "num_tpu_cores": 8})
    vars(self).update(changes)


@pytest.mark.parametrize("changes, told", [
    ({"bert_config_file": "none.json"}, "--bert_config_file.*none.json"),
    ({"input_file": "none.tfrecord"}, "--input_file.*none.tfrecord"),
    ({"truncation_factor": 5}, "--truncation_factor=5.*=4"),
    ({"max_seq_length": 12}, "--max_seq_length=12.*=10"),
    ({"max_seq_length": 17}, "--max_seq_length=17.*max_position_embeddings"),
    ({"max_predictions_per_seq": 4}, "--max_predictions_per_seq=4.*=3"),
    ({"init_checkpoint": "none.ckpt"}, "--init_checkpoint.*none.ckpt"),
    ({"init_checkpoint": None, "do_train": False}, "--do_eval.*nothing"),
    ({"use_tpu": True, "precision": "fp16"}, "--precision=fp16.*--use_tpu"),
    ({"init_layers": ["0", "0"]}, "--init_layers=0,0 names 2.* 1: name as"),
    ({"init_layers": ["3"]}, "--init_layers.*no layer 3.*layers are 0"),
    ({"init_layers": ["-1"]}, "--init_layers=-1 must be numbers"),
    ({"init_layers": ["0"], "init_checkpoint": None},
     "--init_layers=0 needs --init_checkpoint"),
])
def test_bad_input_is_found_before_anything_is_written(
    tmp_path, folder, changes, told):
  with pytest.raises(ValueError, match=told):
    training.run(_Flags(folder, tmp_path / "out", **changes))
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made_with, changes, told", [
    ({"truncation_factor": 5}, {}, "--truncation_factor=4.*=5.*=5"),
    ({"temperature": 2.0}, {}, "--temperature=1.0.*=2.0.*set"),
    ({}, {"temperature": 0.5}, "--temperature=0.5.*=1.0.*set"),
    ({}, {"temperature": 0.0}, "--temperature=0.0 must be over 0"),
    ({"tail_samples": 2}, {"tail_mass": "bucket"},
     "--tail_mass=bucket.*--tail_samples=2.*--tail_mass=drop"),
])
def test_labels_that_were_made_for_another_loss_are_refused(
    tmp_path, folder, made_with, changes, told):
  serialized = next(records.read_records(
      str(folder / "labelled.tfrecord"), "input_file"))
  path = str(tmp_path / "labelled.tfrecord")
  with records.RecordWriter(path) as writer:
    writer.write(serialized)
    writer.commit(records.Manifest(
        "extract_teacher_labels_truncated",
        dict({"truncation_factor": 4}, **made_with), {}, {}, 29))
  with pytest.raises(ValueError, match=told):
    training.run(_Flags(folder, tmp_path / "out", input_file=path, **changes))
  # The remedy that the message names works.
  training._check_labels([path], "input_file", _Flags(
      folder, tmp_path, **dict(made_with, tail_mass="drop")))


def test_the_best_checkpoint_needs_labels(tmp_path, folder):
  features = tiny.random_features(np.random.default_rng(0))
  del features[records.TEACHER_PROBABILITIES]
  del features[records.TEACHER_INDICES]
  path = tiny.write_records(tmp_path / "unlabelled.tfrecord", [features])
  with pytest.raises(ValueError, match="--eval_every_checkpoint.*unlabelled"):
    training.run(_Flags(
        folder, tmp_path / "out", input_file=str(path), hard_label_weight=1,
        eval_every_checkpoint=True))


def test_another_model_in_the_output_folder_is_refused(tmp_path, folder):
  tiny.write_checkpoint(tmp_path / "model.ckpt-5", dict(
      tiny.random_variables(), global_step=np.int64(5)))
  (tmp_path / "checkpoint").write_text(
      'model_checkpoint_path: "model.ckpt-5"\n')
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  path = tiny.write_config(tmp_path / "bert_config.json", config)
  with pytest.raises(ValueError, match="--output_dir.*has no .*layer_1"):
    training.run(_Flags(folder, tmp_path, bert_config_file=str(path)))
  # A smaller model would find all that it wants.
  tiny.write_checkpoint(tmp_path / "model.ckpt-5", dict(
      tiny.random_variables(config), global_step=np.int64(5)))
  with pytest.raises(ValueError, match="--output_dir.*has .*layer_1.* too"):
    training.run(_Flags(folder, tmp_path))


def test_what_goes_on_needs_no_start(tmp_path, folder):
  training.run(_Flags(folder, tmp_path / "out", do_eval=False))
  training.run(_Flags(folder, tmp_path / "out", init_checkpoint="gone.ckpt",
                      num_train_steps=4))
  assert _results(tmp_path / "out")["global_step"] == 4


def test_a_damaged_record_is_one_line(tmp_path, folder):
  content = (folder / "labelled.tfrecord").read_bytes()
  path = tmp_path / "cut.tfrecord"
  path.write_bytes(content[:-20])
  result = tiny.run_script(_SCRIPT, *_arguments(
      folder, tmp_path / "out", "--do_train", input_file=path,
      num_train_steps=40, train_batch_size=2))
  assert result.returncode == 1 and "Traceback" not in result.stderr
  assert "--input_file: a record is damaged" in (
      result.stderr.splitlines()[-1])
  other = tiny.random_features(
      np.random.default_rng(0), shape=tiny.SHAPE._replace(max_seq_length=12))
  serialized = [*records.read_records(
      str(folder / "labelled.tfrecord"), "input_file"), records.encode(other)]
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in serialized:
      writer.write(record)
  with pytest.raises(ValueError, match="--input_file.*other lengths"):
    training.run(_Flags(folder, tmp_path / "out", input_file=str(path),
                        do_train=False))
