"""Tests of the distributed trainer under Horovod, with two processes."""

import os
import subprocess
import sys

import numpy as np
import pytest

from distillation import hooks
from distillation import training
import optimization
from records import schema
import tiny

_SCRIPT = "network_distillation_distributed_truncated.py"
_HOROVODRUN = "horovodrun -np 2 --gloo".split()

# Runs the trainer; saves each rank's first token ids and final variables.
_SPY = """
import dataclasses
import sys
sys.path.insert(0, {root!r})
import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from distillation import hooks
from distillation import options
from distillation import training
from records import schema
from util import command_line
import network_distillation_distributed_truncated as trainer

class Spy(tf.compat.v1.train.SessionRunHook):
  first_ids = []
  def begin(self):
    graph = tf.compat.v1.get_default_graph()
    # The outputs of a batch are its features, by name.
    names = sorted(schema.features(schema.RecordShape(10, 3, 4)))
    self.ids = [
        operation.outputs[names.index(schema.INPUT_IDS)]
        for operation in graph.get_operations()
        if operation.type == "IteratorGetNext"
        # Only while it trains.
        and graph.get_collection(hooks.STEP_AFTER)]
    self.variables = tf.compat.v1.global_variables()
  def before_run(self, run_context):
    return tf.compat.v1.train.SessionRunArgs(self.ids) if self.ids else None
  def after_run(self, run_context, run_values):
    if self.ids:
      self.first_ids += run_values.results[0][:, 0].tolist()
  def end(self, session):
    if self.ids:
      np.savez({folder!r} + "/rank_%d.npz" % hvd.rank(),
               first_ids=self.first_ids,
               **{{v.op.name: session.run(v) for v in self.variables}})

run = training.run
def run_and_spy(trainer_options, processes):
  run(trainer_options, dataclasses.replace(
      processes, broadcast_hooks=processes.broadcast_hooks + (Spy(),)))
training.run = run_and_spy
trainer.define_flags()
command_line.run(trainer.main, required=options.REQUIRED_FLAGS)
"""


# Makes the gradients overflow in rank 1 only, in the third step.
_OVERFLOW = """
import os
import sys
sys.path.insert(0, {root!r})
import tensorflow as tf
from distillation import losses
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
  masked_lm_losses = losses.masked_lm_losses
  def overflow(*arguments, **keywords):
    is_third = tf.equal(tf.compat.v1.train.get_global_step(), 2)
    return masked_lm_losses(*arguments, **keywords) * tf.where(
        is_third, 1e6, 1.0)
  losses.masked_lm_losses = overflow
"""

# Runs the trainer; logs the curves at each step.
_CURVES = """
import runpy
import sys
sys.path.insert(0, {root!r})
from distillation import hooks
hooks.LOG_STEPS = 1
runpy.run_module(
    "network_distillation_distributed_truncated", run_name="__main__")
"""


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """A config, a checkpoint, and 16 records that differ in the first token id.

  The records are in eight files, whose order must be the same in all ranks.
  """
  folder = tmp_path_factory.mktemp("distributed")
  tiny.write_config(folder / "bert_config.json")
  tiny.write_checkpoint(folder / "bert_model.ckpt", tiny.random_variables())
  examples = tiny.random_examples(16, seed=4)
  for number, features in enumerate(examples):
    features[schema.INPUT_IDS][0] = number
  for start in range(0, 16, 2):
    tiny.write_records(folder / "labelled_{}.tfrecord".format(start // 2),
                       examples[start:start + 2])
  return folder


def _arguments(folder, output_dir):
  return [
      *tiny.SHAPE_FLAGS, "--truncation_factor=4", "--do_train", "True",
      "--do_eval", "True",
      "--bert_config_file", folder / "bert_config.json",
      "--input_file", folder / "labelled_*.tfrecord",
      "--output_dir", output_dir, "--train_batch_size=2", "--eval_batch_size=3",
      "--learning_rate=0.01", "--num_train_steps=8", "--num_warmup_steps=2",
      "--save_checkpoints_steps=2"]


def test_two_processes_train_one_model(tmp_path, folder):
  """Without an initial checkpoint, rank 0 broadcasts its variables."""
  script = tmp_path / "spy.py"
  script.write_text(_SPY.format(root=str(tiny.ROOT), folder=str(tmp_path)))
  result = tiny.launch(tiny.MPIRUN, script,
                       *_arguments(folder, tmp_path / "out"))
  assert result.returncode == 0, result.stderr
  first, second = (np.load(tmp_path / "rank_{}.npz".format(rank))
                   for rank in range(2))
  assert first["global_step"] == 4  # 8 steps, divided by two processes.
  for name in first.files:
    if name != "first_ids":
      np.testing.assert_array_equal(first[name], second[name], err_msg=name)
  # Four steps of two records are an epoch: eight records for each rank.
  assert sorted([*first["first_ids"], *second["first_ids"]]) == list(range(16))
  saved = tiny.read_checkpoint(tmp_path / "out" / "model.ckpt-4")
  for name, value in saved.items():
    np.testing.assert_array_equal(value, first[name], err_msg=name)
  assert "model.ckpt-2.index" in os.listdir(tmp_path / "out")
  results = (tmp_path / "out" / "eval_results.txt").read_text()
  assert "global_step = 4\n" in results


@pytest.mark.slow
def test_an_overflow_in_one_process_skips_the_step_in_all(tmp_path, folder):
  script = tmp_path / "spy.py"
  script.write_text((_OVERFLOW + _SPY).format(
      root=str(tiny.ROOT), folder=str(tmp_path)))
  result = tiny.launch(
      tiny.MPIRUN, script, *_arguments(folder, tmp_path / "out"),
      "--precision=fp16", "--save_checkpoints_steps=1",
      "--keep_checkpoint_max=5")
  assert result.returncode == 0, result.stderr
  first, second = (np.load(tmp_path / "rank_{}.npz".format(rank))
                   for rank in range(2))
  for name in first.files:
    if name != "first_ids":
      np.testing.assert_array_equal(first[name], second[name], err_msg=name)
  # The third of the four steps is skipped.
  assert [first[name] for name in optimization.LOSS_SCALE_VARIABLES] == [
      2 ** 14, 1, 1]
  saved = [tiny.read_checkpoint(
      tmp_path / "out" / "model.ckpt-{}".format(step)) for step in (1, 2, 3, 4)]
  moved = [not np.array_equal(before["bert/pooler/dense/kernel"],
                              after["bert/pooler/dense/kernel"])
           for before, after in zip(saved, saved[1:])]
  assert moved == [True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("num_micro_batches, is_hidden",
                         [(1, False), (2, True)])
def test_two_processes_equal_one_process_at_twice_the_rate(
    tmp_path, folder, num_micro_batches, is_hidden):
  """Trains on equal records, so that both batches have the same gradients.

  One case has compact records; the other has micro-batches and hidden states.
  """
  tiny.write_hidden_states(tmp_path)
  features, = tiny.random_examples(1, seed=4)
  if is_hidden:
    features = tiny.with_hidden_states(features)
  path = tiny.write_records(tmp_path / "equal.tfrecord", [features] * 4,
                            None if is_hidden else tiny.layout())
  arguments = [
      "--hidden_cosine_weight", float(is_hidden),
      "--init_checkpoint", folder / "bert_model.ckpt", "--input_file", path]
  both = tiny.launch(tiny.MPIRUN, _SCRIPT,
                     *_arguments(folder, tmp_path / "both"), *arguments,
                     "--train_batch_size", 2 // num_micro_batches,
                     "--gradient_accumulation_steps", num_micro_batches)
  assert both.returncode == 0, both.stderr
  single = tiny.run_script(
      "network_distillation_single_machine_truncated.py",
      *_arguments(folder, tmp_path / "single"), *arguments,
      "--learning_rate=0.02", "--num_train_steps=4", "--num_warmup_steps=1")
  assert single.returncode == 0, single.stderr
  both, single = (tiny.read_checkpoint(tmp_path / name / "model.ckpt-4")
                  for name in ("both", "single"))
  assert set(both) == set(single)
  for name, value in both.items():
    np.testing.assert_allclose(value, single[name], atol=1e-5, err_msg=name)


@pytest.fixture(name="trained", scope="module")
def _trained(tmp_path_factory):
  """Fifty records with unequal numbers of slots, and a run on one process."""
  folder = tmp_path_factory.mktemp("trained")
  tiny.trainer_inputs(folder)
  examples = tiny.random_examples(50, seed=8)
  assert len({example[schema.MASKED_LM_WEIGHTS].sum()
              for example in examples}) == 3
  tiny.write_records(folder / "labelled.tfrecord", examples)
  options = tiny.trainer_options(
      folder, folder / "single", train_batch_size=16, num_train_steps=30,
      num_warmup_steps=3, save_checkpoints_steps=30, learning_rate=0.003)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(hooks, "LOG_STEPS", 1)
    training.run(options)
  return folder


def _losses(output_dir):
  """Returns the loss of each step, from the TensorBoard curves."""
  return list(tiny.curves(output_dir)["loss"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher, num_micro_batches, eval_batch_size, evaluates_all", [
        # 17 evaluation batches, the last one not full; and a single batch, so
        # that one rank has none.
        (tiny.MPIRUN, 1, 3, True), (_HOROVODRUN, 2, 64, False)],
    ids=["mpirun", "horovodrun"])
def test_two_processes_equal_one_process_with_twice_the_batch_size(
    tmp_path, trained, launcher, num_micro_batches, eval_batch_size,
    evaluates_all):
  folder = trained
  script = tmp_path / "curves.py"
  script.write_text(_CURVES.format(root=str(tiny.ROOT)))
  output_dir = tmp_path / "out"
  result = tiny.launch(
      launcher, script, *_arguments(folder, output_dir),
      "--init_checkpoint", folder / "bert_model.ckpt",
      "--input_file", folder / "labelled.tfrecord", "--num_train_steps=30",
      "--num_warmup_steps=3", "--save_checkpoints_steps=30",
      "--learning_rate=0.003",
      "--scale_learning_rate=False",
      "--train_batch_size", 8 // num_micro_batches,
      "--gradient_accumulation_steps", num_micro_batches,
      "--eval_batch_size", eval_batch_size,
      "--eval_every_checkpoint", evaluates_all)
  assert result.returncode == 0, result.stdout + result.stderr
  # One rank reports the evaluations of steps 0 and 30.
  assert result.stderr.count("held out: kl_from") == 2 * evaluates_all
  assert (output_dir / "best").exists() == evaluates_all
  losses = _losses(folder / "single")
  assert len(losses) == 30 and losses[-1] < losses[0]
  np.testing.assert_allclose(_losses(output_dir), losses, atol=1e-5)
  single = tiny.read_checkpoint(folder / "single" / "model.ckpt-30")
  for name, value in tiny.read_checkpoint(
      output_dir / "model.ckpt-30").items():
    np.testing.assert_allclose(value, single[name], atol=1e-4, err_msg=name)
  # The evaluation by one process gives the results of the two ranks.
  results = tiny.read_results(output_dir)
  training.run(tiny.trainer_options(
      folder, output_dir, do_train=False, eval_batch_size=eval_batch_size))
  wanted = tiny.read_results(output_dir)
  assert set(results) == set(wanted)
  for name, value in results.items():
    assert value == pytest.approx(wanted[name], abs=1e-5), name


def test_a_missing_horovod_is_an_error(tmp_path):
  (tmp_path / "horovod.py").write_text("raise ImportError('not built')")
  result = subprocess.run(
      [sys.executable, str(tiny.ROOT / _SCRIPT)],
      env=dict(os.environ, PYTHONPATH=str(tmp_path)),
      stderr=subprocess.PIPE, text=True, check=False)
  tiny.assert_one_line_error(result, "not built", "./setup.sh")


@pytest.mark.slow
def test_the_script_runs_without_a_launcher(tmp_path, folder):
  result = tiny.run_script(_SCRIPT, *_arguments(folder, tmp_path / "out"))
  assert result.returncode == 0, result.stderr
  assert "global_step = 8\n" in (
      tmp_path / "out" / "eval_results.txt").read_text()
  assert "MPI" not in result.stderr


@pytest.mark.slow
def test_horovodrun_trains_and_only_rank_0_writes(tmp_path, folder):
  arguments = [*_arguments(folder, tmp_path / "out"), "--num_warmup_steps=100"]
  result = tiny.launch(_HOROVODRUN, _SCRIPT, *arguments)
  assert result.returncode == 0, result.stdout + result.stderr
  log = result.stdout + result.stderr
  assert log.count("global_step = 4") == 1
  assert log.count("--num_warmup_steps=100 is not less than") == 1
  events = [name for name in os.listdir(tmp_path / "out")
            if name.startswith("events")]
  assert len(events) == 1
  # Neither rank trains again after the end of training.
  again = tiny.launch(_HOROVODRUN, _SCRIPT, *arguments)
  assert again.returncode == 0, again.stdout + again.stderr
  assert (again.stdout + again.stderr).count("training is finished") == 1


def test_bad_input_ends_all_ranks(tmp_path, folder):
  result = tiny.launch(tiny.MPIRUN, _SCRIPT,
                       *_arguments(folder, tmp_path / "out"),
                       "--input_file=none.tfrecord")
  assert result.returncode == 1
  assert "--input_file: there is no file none.tfrecord" in result.stderr
  assert "Traceback" not in result.stderr
  assert not (tmp_path / "out").exists()
