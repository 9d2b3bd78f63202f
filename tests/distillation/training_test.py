"""Tests of training, evaluation and the checks before them."""

import dataclasses
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from distillation import checkpoints
from distillation import devices
from distillation import hooks
from distillation import inputs
from distillation import losses
from distillation import training
import optimization
from records import manifest
from records import record_writer
from records import schema
from records import tfrecord
import tiny
from util import files
from util.command_line import InputError


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  return tiny.trainer_inputs(tmp_path_factory.mktemp("trainer"))


def _run(folder, output_dir, **changes):
  training.run(tiny.trainer_options(folder, output_dir, **changes))


# --- Training ----------------------------------------------------------------


def test_other_processes_open_no_records_that_rank_0_has_read(
    tmp_path, folder, monkeypatch):
  """They open only files whose stamps differ from those in rank 0."""
  paths = [_write_labelled(tmp_path / "{}.tfrecord".format(i), folder)
           for i in range(2)]
  names = [name for path in map(str, paths) for name in (path, path + ".json")]
  for name in names:
    os.utime(name, (1e9, 1e9))
  monkeypatch.setattr(files, "_cache", {})
  options = tiny.trainer_options(
      folder, tmp_path / "out", input_file=",".join(map(str, paths)))
  inputs.check(options)
  cache = pickle.dumps(files.export_cache())
  opened = []
  open_file = files.open_file

  def open_and_note(path, *arguments, **keywords):
    opened.append(path)
    return open_file(path, *arguments, **keywords)

  def start():
    monkeypatch.setattr(files, "_cache", {})
    files.import_cache(pickle.loads(cache))
    opened.clear()
    inputs.check(options, is_writer=False)
    return set(opened) & set(names)

  monkeypatch.setattr(files, "open_file", open_and_note)
  assert start() == set()
  # Another host may have its own copy of a file.
  os.utime(names[3], (1.1e9, 1.1e9))
  assert start() == {names[3]}


@pytest.mark.parametrize("num_sequences, num_records, told", [
    (3200000, 297000000, "3,200,000 sequences: 1.08% of the 297,000,000 rec"),
    (25600000, 29700000, "25,600,000 sequences: 86.2% of the 29,700,000 rec"),
    (100, 100, "100 sequences: 1 epochs of the 100 rec"),
    (1250, 100, "1,250 sequences: 12.5 epochs of the 100 rec"),
])
def test_the_log_has_the_share_of_the_records(num_sequences, num_records, told):
  assert told in training.describe_reading(num_sequences, num_records)


@pytest.mark.slow
@pytest.mark.parametrize("steps, warmup, told", [
    (4, 8, "only reaches 0.000375 of 0.001; try --num_warmup_steps=0"),
    (2, 10000, "--num_warmup_steps=10000 is not less than --num_train_steps=2"),
    (2, 0, ""),
])
def test_a_warmup_that_is_too_long_is_warned_of(
    tmp_path, folder, caplog, steps, warmup, told):
  _run(folder, tmp_path, do_eval=False, num_train_steps=steps,
       num_warmup_steps=warmup)
  assert told in caplog.text
  assert ("num_warmup_steps" in caplog.text) == bool(told)


@pytest.mark.slow
def test_a_folder_of_other_files_is_warned_of(tmp_path, folder, caplog):
  for name in ("log.txt", "run.log", "bert_config.json", ".hidden"):
    (tmp_path / name).write_text("which belongs to the training")
  _run(folder, tmp_path, do_eval=False, num_train_steps=2)
  assert "training does not write" not in caplog.text
  # A resume does not warn. A start without a checkpoint warns of text_0.txt,
  # but not of the files of earlier runs.
  (tmp_path / "text_0.txt").write_text("a text")
  _run(folder, tmp_path, do_eval=False, num_train_steps=4)
  assert "training does not write" not in caplog.text
  for path in [tmp_path / "checkpoint", *tmp_path.glob("model.ckpt*")]:
    path.unlink()
  _run(folder, tmp_path, do_eval=False, num_train_steps=2)
  assert "holds 1 files that training does not write, such as text_0.txt" in (
      caplog.text)


@pytest.mark.slow
def test_evaluating_the_teacher_gives_the_figures_of_the_manifest(
    tmp_path, folder):
  """Stage IV and the evaluation measure the teacher on the same records."""
  labelled = tmp_path / "labelled.tfrecord"
  result = tiny.run_script(
      "extract_teacher_labels_truncated.py", *tiny.SHAPE_FLAGS,
      "--bert_config_file", folder / "bert_config.json", "--init_checkpoint",
      folder / "bert_model.ckpt", "--input_file", tiny.write_records(
          tmp_path / "masked.tfrecord",
          map(tiny.without_labels, tiny.random_examples(21, seed=5))),
      "--output_file", labelled, "--truncation_factor=4")
  assert result.returncode == 0, result.stderr
  _run(folder, tmp_path / "out", do_train=False, input_file=labelled)
  found = tiny.read_results(tmp_path / "out")
  assert found["num_records"] == found["teacher_num_records"] == 21
  for metric in ("masked_lm_accuracy", "masked_lm_cross_entropy"):
    assert found["teacher_" + metric] == pytest.approx(found[metric], rel=1e-5)


@pytest.mark.slow
def test_a_seed_fixes_the_run(tmp_path, folder):
  """Covers initial weights, dropout and the order of records."""
  trained = {}
  for name, seed in (("first", 7), ("again", 7), ("other", 8)):
    _run(folder, tmp_path / name, do_eval=False,
         bert_config_file=folder / "with_dropout.json", init_checkpoint=None,
         num_train_steps=6, save_checkpoints_steps=1, keep_checkpoint_max=2,
         random_seed=seed)
    trained[name] = tiny.read_checkpoint(tmp_path / name / "model.ckpt-6")
    assert len(list((tmp_path / name).glob("*.index"))) == 2
  for name, value in trained["first"].items():
    np.testing.assert_array_equal(trained["again"][name], value, err_msg=name)
  name = "bert/pooler/dense/kernel"
  assert not np.allclose(trained["first"][name], trained["other"][name])


@pytest.mark.slow
def test_compact_records_train_the_same_student(tmp_path, folder):
  """Trains and evaluates on a plain and a compact file together."""
  examples = tiny.random_examples(21, seed=5)
  for name, layout in (("plain", None), ("mixed", tiny.layout(bits=32))):
    (tmp_path / name).mkdir()
    tiny.write_records(tmp_path / name / "a", examples[:9])
    tiny.write_records(tmp_path / name / "b", examples[9:], layout)
    _run(folder, tmp_path / name / "run",
         input_file="{0}/{1}/a,{0}/{1}/b".format(tmp_path, name),
         num_train_steps=15)
  results, variables = zip(*(
      (tiny.read_results(tmp_path / name / "run"),
       tiny.read_checkpoint(tmp_path / name / "run" / "model.ckpt-15"))
      for name in ("plain", "mixed")))
  for name, value in variables[0].items():
    np.testing.assert_array_equal(variables[1][name], value, err_msg=name)
  assert {**results[0], "checkpoint": ""} == {**results[1], "checkpoint": ""}


@pytest.mark.slow
def test_micro_batches_make_one_step(tmp_path, folder):
  """Variables and optimizer slots equal those of one batch of 6."""
  trained = {}
  for name, batch_size, num_micro_batches in (("one", 6, 1), ("three", 2, 3)):
    _run(folder, tmp_path / name, do_eval=False, train_batch_size=batch_size,
         gradient_accumulation_steps=num_micro_batches, num_train_steps=5,
         learning_rate=0.01)
    trained[name] = tiny.read_checkpoint(tmp_path / name / "model.ckpt-5")
  assert set(trained["one"]) == set(trained["three"])
  assert trained["three"]["global_step"] == 5
  for name, value in trained["one"].items():
    np.testing.assert_allclose(
        trained["three"][name], value, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_other_precisions_train_and_save_float32(tmp_path, folder):
  """Holds on devices without support for the precision, too."""
  trained = {}
  for precision in devices.PRECISIONS:
    _run(folder, tmp_path / precision, do_eval=False, num_train_steps=5,
         learning_rate=0.01, precision=precision)
    trained[precision] = tiny.read_checkpoint(
        tmp_path / precision / "model.ckpt-5")
  for precision in ("bf16", "fp16"):
    assert set(trained[precision]) - set(trained["fp32"]) == set(
        optimization.LOSS_SCALE_VARIABLES if precision == "fp16" else ())
    for name, value in trained["fp32"].items():
      assert trained[precision][name].dtype == value.dtype
      # Adam's first steps are equally large for tiny and for large gradients.
      np.testing.assert_allclose(
          np.mean(np.abs(trained[precision][name] - value)), 0, atol=0.02)


@pytest.mark.slow
def test_training_writes_curves_for_tensorboard(tmp_path, folder):
  _run(folder, tmp_path, num_train_steps=101, num_warmup_steps=10,
       save_checkpoints_steps=101, eval_every_checkpoint=True)

  assert {"loss", "kl_from_teacher", "masked_lm_accuracy"} < set(
      tiny.curves(tmp_path / "eval"))
  found = tiny.curves(tmp_path)
  assert 101 in found["sequences_per_second"]
  for step in (1, 101):
    assert found["loss"][step] == pytest.approx(
        found["masked_lm_loss"][step] + found["next_sentence_loss"][step],
        rel=1e-5)
    assert found["gradient_norm"][step] > 0
  # At step 101 the schedule has 1 of 101 steps left.
  assert found["learning_rate"][101] == pytest.approx(1e-3 / 101, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stop, batch_size, num_steps, last_step", [
    # The first command trains 8 steps of 2, which are 16 sequences. The second
    # resumes from step `stop` with other batches and steps.
    (4, 4, 4, 6), (4, 1, 16, 12), (3, 4, 4, 5), (8, 4, 4, 8), (4, 4, 8, 10)])
def test_the_schedule_follows_the_sequences(
    tmp_path, folder, monkeypatch, stop, batch_size, num_steps, last_step):
  monkeypatch.setattr(hooks, "LOG_STEPS", 1)
  schedule = dict(do_eval=False, learning_rate=1e-3, keep_checkpoint_max=0,
                  save_checkpoints_steps=1)
  _run(folder, tmp_path, num_train_steps=8, **schedule)
  for path in tmp_path.glob("model.ckpt-*"):
    if int(re.search(r"ckpt-(\d+)", path.name).group(1)) > stop:
      path.unlink()
  (tmp_path / "checkpoint").write_text(
      'model_checkpoint_path: "model.ckpt-{}"\n'.format(stop))
  _run(folder, tmp_path, train_batch_size=batch_size,
       num_train_steps=num_steps, **schedule)
  assert checkpoints.newest_step(str(tmp_path)) == last_step
  total = num_steps * batch_size
  rates = tiny.curves(tmp_path)["learning_rate"]
  for step in range(1, last_step + 1):
    before = 2 * min(step - 1, stop) + batch_size * max(0, step - 1 - stop)
    share = before / (total if step > stop else 16)
    assert rates[step] == pytest.approx(1e-3 * (1 - share), rel=1e-5)


@pytest.mark.slow
def test_a_non_finite_loss_stops_the_run(tmp_path, folder):
  """One of the six records has a NaN label."""
  examples = tiny.random_examples(6, seed=5)
  examples[2][schema.TEACHER_PROBABILITIES][0, 0] = np.nan
  path = tiny.write_records(tmp_path / "labelled.tfrecord", examples)
  with pytest.raises(
      InputError, match="NaN or infinite at step [1-6];.*--learning_rate"):
    _run(folder, tmp_path / "out", input_file=path, train_batch_size=1,
         num_train_steps=100, save_checkpoints_steps=1)
  saved = sorted((tmp_path / "out").glob("model.ckpt-*.index"))
  assert len(saved) > 1
  for checkpoint in saved:
    for name, value in tiny.read_checkpoint(
        checkpoint.with_suffix("")).items():
      assert np.all(np.isfinite(value)), name


@pytest.mark.parametrize("message, told", [
    ("OOM when allocating\n\t [[node]]", "OOM when allocating"),
    ("Graph execution error:\n\nOOM when allocating\n", "OOM when allocating"),
    ("", ""),
])
def test_the_error_of_exhausted_memory_has_no_heading(
    tmp_path, folder, monkeypatch, message, told):
  def run_out(*unused_arguments):
    raise tf.errors.ResourceExhaustedError(None, None, message)

  monkeypatch.setattr(losses, "masked_lm_losses", run_out)
  with pytest.raises(InputError, match=re.escape(
      "memory or disk ran out ({}): free some memory".format(told))):
    _run(folder, tmp_path)


@pytest.mark.slow
def test_a_resumed_run_needs_no_initial_checkpoint(tmp_path, folder):
  _run(folder, tmp_path, do_eval=False)
  _run(folder, tmp_path, init_checkpoint="gone.ckpt", num_train_steps=4)
  assert tiny.read_results(tmp_path)["global_step"] == 4


def test_the_exported_student_has_the_layout_of_google(tmp_path, folder):
  """Stage IV's script reads the exported student as a teacher."""
  _run(folder, tmp_path / "out", do_eval=False)
  student = tmp_path / "out" / "student"
  assert sorted(path.name for path in student.iterdir()) == [
      "bert_config.json", "bert_model.ckpt.data-00000-of-00001",
      "bert_model.ckpt.index", "exported_from.txt"]
  assert (student / "bert_config.json").read_bytes() == (
      folder / "bert_config.json").read_bytes()
  newest = tiny.read_checkpoint(tmp_path / "out" / "model.ckpt-2")
  exported = tiny.read_checkpoint(student / "bert_model.ckpt")
  assert set(exported) == set(tiny.random_variables())
  for name, value in exported.items():
    np.testing.assert_array_equal(value, newest[name], err_msg=name)
  result = tiny.run_script(
      "extract_teacher_labels_truncated.py", *tiny.SHAPE_FLAGS,
      "--bert_config_file", student / "bert_config.json",
      "--init_checkpoint", student / "bert_model.ckpt",
      "--input_file", folder / "labelled.tfrecord",
      "--output_file", tmp_path / "labelled.tfrecord")
  assert result.returncode == 0, result.stderr
  # The next run repairs the folders that a crash during the export leaves.
  student.rename(tmp_path / "out" / ".student.replaced.partial")
  (tmp_path / "out" / ".student.partial").mkdir()
  _run(folder, tmp_path / "out", do_eval=False)
  assert (student / "bert_model.ckpt.index").exists()
  assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.slow
def test_the_results_are_those_of_the_exported_student(
    tmp_path, folder, caplog):
  """A newer checkpoint, of a stopped run, only causes a warning."""
  _run(folder, tmp_path, do_eval=False)
  (tmp_path / "student").rename(tmp_path / "kept")
  _run(folder, tmp_path, do_eval=False, num_train_steps=4)
  shutil.rmtree(tmp_path / "student")
  (tmp_path / "kept").rename(tmp_path / "student")
  _run(folder, tmp_path, do_train=False)
  assert tiny.read_results(tmp_path)["global_step"] == 2
  assert "checkpoint = model.ckpt-2\n" in (
      tmp_path / "student" / "eval_results.txt").read_text()
  assert "model.ckpt-4 is newer than model.ckpt-2" in caplog.text


# --- Checks ------------------------------------------------------------------


@pytest.mark.parametrize("changes, told", [
    ({"bert_config_file": "none.json"}, "--bert_config_file.*none.json"),
    ({"input_file": "none.tfrecord"}, "--input_file.*none.tfrecord"),
    ({"eval_input_file": "none.tfrecord"}, "--eval_input_file.*none.tfrecord"),
    ({"do_train": False, "do_eval": False}, "--do_train and --do_eval"),
    ({"truncation_factor": 5}, "--truncation_factor=5.*=4"),
    ({"max_seq_length": 12}, "--max_seq_length=12.*=10"),
    ({"max_seq_length": 17}, "--max_seq_length=17.*max_position_embeddings"),
    ({"max_predictions_per_seq": 4}, "--max_predictions_per_seq=4.*=3"),
    ({"init_checkpoint": "none.ckpt"}, "--init_checkpoint.*none.ckpt"),
    ({"init_checkpoint": None, "do_train": False}, "--do_eval.*nothing"),
    ({"use_tpu": True, "precision": "fp16"}, "--precision=fp16.*--use_tpu"),
    ({"init_layers": ["0", "0"]}, "--init_layers=0,0 names 2.* 1: name 1"),
    ({"init_layers": ["3"]}, "--init_layers.*no layer 3.*layers are 0"),
    ({"init_layers": ["-1"]}, "--init_layers=-1 must be numbers"),
    ({"init_layers": ["0"], "init_checkpoint": None},
     "--init_layers=0 needs --init_checkpoint"),
])
def test_bad_input_is_found_before_anything_is_written(
    tmp_path, folder, changes, told):
  with pytest.raises(InputError, match=told):
    _run(folder, tmp_path / "out", **changes)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made_with, changes, told", [
    ({"truncation_factor": 5}, {}, "--truncation_factor=4.*=5.*=5"),
    ({"temperature": 2.0}, {}, "--temperature=1.0.*=2.0.*set"),
    ({}, {"temperature": 0.5}, "--temperature=0.5.*=1.0.*set"),
    ({}, {"temperature": 0.0}, "--temperature=0.0 must be over 0"),
    ({"tail_samples": 2}, {"tail_mass": "bucket"},
     "--tail_mass=bucket.*--tail_samples=2.*--tail_mass=drop"),
])
def test_labels_made_for_another_loss_are_refused(
    tmp_path, folder, made_with, changes, told):
  path = _write_labelled(tmp_path / "labelled.tfrecord", folder, **made_with)
  with pytest.raises(InputError, match=told):
    _run(folder, tmp_path / "out", input_file=path, **changes)
  assert not (tmp_path / "out").exists()
  # The remedy in the message works, except for a K that the records lack.
  if "truncation_factor" not in made_with:
    _run(folder, tmp_path / "out", input_file=path, do_train=False,
         tail_mass="drop", temperature=made_with.get("temperature", 1.0))


def _write_labelled(path, folder, **made_with):
  """Writes a labelled record, with flags in its manifest; returns the path."""
  with record_writer.RecordWriter(str(path)) as writer:
    writer.write(next(tfrecord.read(
        str(folder / "labelled.tfrecord"), "input_file")))
    writer.commit(manifest.Manifest(
        "extract_teacher_labels_truncated",
        {"truncation_factor": 4, **made_with}, {}, {}, 29))
  return path


def test_files_with_other_numbers_of_samples_are_not_mixed(tmp_path, folder):
  for name, tail_samples in (("a.tfrecord", 1), ("b.tfrecord", 2)):
    _write_labelled(tmp_path / name, folder, tail_samples=tail_samples)
  with pytest.raises(InputError, match="a.tfrecord was made with "
                     "--tail_samples=1, .*b.tfrecord with --tail_samples=2"):
    _run(folder, tmp_path / "out", input_file=tmp_path / "*.tfrecord")


def test_the_best_checkpoint_by_kl_needs_labels(tmp_path, folder):
  path = tiny.write_records(
      tmp_path / "unlabelled.tfrecord",
      map(tiny.without_labels, tiny.random_examples(1, seed=0)))
  with pytest.raises(InputError, match="--eval_every_checkpoint.*unlabelled"):
    _run(folder, tmp_path / "out", input_file=path, hard_label_weight=1,
         eval_every_checkpoint=True)


@pytest.mark.slow
def test_the_best_checkpoint_by_masked_lm_cross_entropy_needs_no_labels(
    tmp_path, folder):
  path = tiny.write_records(
      tmp_path / "unlabelled.tfrecord",
      map(tiny.without_labels, tiny.random_examples(4, seed=0)))
  _run(folder, tmp_path / "out", input_file=path, hard_label_weight=1,
       eval_every_checkpoint=True, best_checkpoint_by="masked_lm_cross_entropy",
       save_checkpoints_steps=1)
  best = tiny.read_results(tmp_path / "out" / "best")
  assert best == tiny.read_results(tmp_path / "out")
  assert "kl_from_teacher" not in best


def test_best_checkpoint_by_needs_eval_every_checkpoint(tmp_path, folder):
  with pytest.raises(InputError, match="--best_checkpoint_by=masked_lm_cross_"
                     "entropy has no effect.*--eval_every_checkpoint=True"):
    _run(folder, tmp_path / "out", best_checkpoint_by="masked_lm_cross_entropy")


def test_a_final_weight_for_a_constant_schedule_is_refused(tmp_path, folder):
  with pytest.raises(InputError, match="--final_hard_label_weight=0.5 does not"
                     ".*--hard_label_schedule=linear"):
    _run(folder, tmp_path / "out", final_hard_label_weight=0.5)


@pytest.mark.slow
def test_the_weight_of_hard_labels_follows_the_schedule(tmp_path, folder):
  """Evaluates the loss at the start, half-way and at the end."""
  schedule = {"hard_label_schedule": "linear", "learning_rate": 0.0,
              "num_train_steps": 4, "save_checkpoints_steps": 2}
  output_dir = tmp_path / "out"
  _run(folder, output_dir, do_eval=False, **schedule)
  # An evaluation would otherwise use the exported student.
  shutil.rmtree(output_dir / "student")
  found = {}
  for step in (0, 2, 4):
    tf.compat.v1.train.update_checkpoint_state(
        str(output_dir), str(output_dir / "model.ckpt-{}".format(step)))
    _run(folder, output_dir, do_train=False, **schedule)
    results = tiny.read_results(output_dir)
    assert results["global_step"] == step
    found[step] = results["masked_lm_training_loss"]
  assert found[4] == pytest.approx(results["masked_lm_cross_entropy"])
  assert found[2] == pytest.approx((found[0] + found[4]) / 2)
  assert found[0] == pytest.approx(results["teacher_cross_entropy"])


def test_another_model_in_the_output_folder_is_refused(tmp_path, folder):
  tiny.write_checkpoint(tmp_path / "model.ckpt-5", dict(
      tiny.random_variables(), global_step=np.int64(5)))
  (tmp_path / "checkpoint").write_text(
      'model_checkpoint_path: "model.ckpt-5"\n')
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  path = tiny.write_config(tmp_path / "bert_config.json", config)
  with pytest.raises(InputError, match="--output_dir.*has no .*layer_1"):
    _run(folder, tmp_path, bert_config_file=path)
  # The checkpoint of two layers has all variables of the model of one layer.
  tiny.write_checkpoint(tmp_path / "model.ckpt-5", dict(
      tiny.random_variables(config), global_step=np.int64(5)))
  with pytest.raises(InputError, match="--output_dir.*also has .*layer_1"):
    _run(folder, tmp_path)


@pytest.mark.parametrize("has_step", [False, True])
def test_a_published_model_in_the_output_folder_is_refused(
    tmp_path, folder, has_step):
  """Downloaded folders may have a file `checkpoint`, which names the model."""
  variables = tiny.random_variables()
  if has_step:
    variables["global_step"] = np.int64(1000)
  tiny.write_checkpoint(tmp_path / "bert_model.ckpt", variables)
  (tmp_path / "checkpoint").write_text(
      'model_checkpoint_path: "bert_model.ckpt"\n')
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(InputError, match=(
      "--output_dir: .*bert_model.ckpt has no {}: .*--init_checkpoint".format(
          "moments of the optimizer" if has_step else "global_step"))):
    _run(folder, tmp_path)
  assert sorted(os.listdir(tmp_path)) == before


def test_checkpoints_without_their_list_are_not_overwritten(tmp_path, folder):
  for name in ("model.ckpt-7.index", "model.ckpt-12.index"):
    (tmp_path / name).write_text("of a training")
  with pytest.raises(InputError, match=(
      "--output_dir=.* holds model.ckpt-12, but its file `checkpoint`.*"
      "echo 'model_checkpoint_path: \"model.ckpt-12\"' > ")):
    _run(folder, tmp_path)
  assert (tmp_path / "model.ckpt-12.index").read_text() == "of a training"


def test_a_later_record_of_other_lengths_is_an_error(
    tmp_path, folder):
  other, = tiny.random_examples(
      1, seed=0, shape=tiny.SHAPE._replace(max_seq_length=12))
  path = tiny.write_records(
      tmp_path / "labelled.tfrecord", [*tiny.random_examples(21, 5), other])
  with pytest.raises(InputError, match="--input_file.*other lengths"):
    _run(folder, tmp_path / "out", input_file=path, do_train=False)
