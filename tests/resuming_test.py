"""Tests of the records that a run reads after a kill or a change of size."""

import collections
import json
import random
import re
import signal
from typing import NamedTuple, Optional

import pytest

import processes
from distillation import checkpoints
from records import schema
import tiny

_SINGLE = "network_distillation_single_machine_truncated"
_DISTRIBUTED = "network_distillation_distributed_truncated"

# Runs a trainer; logs the records of each step.
_SPY = """
import json
import os
import sys
sys.path.insert(0, {root!r})
import tensorflow as tf
from distillation import hooks, options
from records import schema
from util import command_line
import {trainer} as trainer

class Spy(hooks.ProgressHook):
  def begin(self):
    super().begin()
    # The outputs of a batch are its features, by name.
    names = sorted(schema.features(schema.RecordShape(10, 3, 4)))
    batch, = [
        operation.outputs for operation in
        tf.compat.v1.get_default_graph().get_operations()
        if operation.type == "IteratorGetNext"]
    self._ids = batch[names.index(schema.INPUT_IDS)]
  def before_run(self, run_context):
    fetches = super().before_run(run_context).fetches
    return tf.compat.v1.train.SessionRunArgs((fetches, self._ids))
  def after_run(self, run_context, run_values):
    loss, ids = run_values.results
    super().after_run(run_context, run_values._replace(results=loss))
    with open({log!r}, "a") as log:
      log.write(json.dumps([int(self.step), ids[:, :2].tolist()]) + "\\n")

hooks.ProgressHook = Spy
hooks.LOG_STEPS = {log_steps}
getattr(trainer, "define_flags", options.define_flags)()
command_line.run(trainer.main, required=options.REQUIRED_FLAGS)
"""


def _spy(tmp_path, trainer, name, log_steps=100):
  """Writes the script; returns the paths of the script and its log."""
  script, log = tmp_path / (name + ".py"), tmp_path / (name + ".jsonl")
  script.write_text(_SPY.format(
      root=str(tiny.ROOT), trainer=trainer, log=str(log),
      log_steps=log_steps))
  return script, log


def _inputs(tmp_path, counts):
  """Writes a config, and files of records that differ in two token ids."""
  tiny.write_config(tmp_path / "bert_config.json")
  examples = tiny.random_examples(sum(counts), seed=4)
  for number, features in enumerate(examples):
    features[schema.INPUT_IDS][:2] = divmod(number, 29)
  for i, count in enumerate(counts):
    tiny.write_records(tmp_path / "labelled_{}.tfrecord".format(i),
                       examples[:count])
    del examples[:count]


def _arguments(tmp_path, output_dir, num_train_steps, **changes):
  values = {
      "max_seq_length": 10, "max_predictions_per_seq": 3,
      "truncation_factor": 4, "do_train": True,
      "bert_config_file": tmp_path / "bert_config.json",
      "input_file": tmp_path / "labelled_*.tfrecord",
      "output_dir": output_dir, "train_batch_size": 2,
      "num_train_steps": num_train_steps, "num_warmup_steps": 0, **changes}
  return ["--{}={}".format(name, value) for name, value in values.items()]


def _read(log):
  """Returns for each step the records of each of its lines in the log."""
  steps = collections.defaultdict(list)
  for line in log.read_text().splitlines():
    step, ids = json.loads(line)
    steps[step].append([29 * high + low for high, low in ids])
  return steps


@pytest.mark.slow
def test_a_killed_run_reads_the_same_records_in_each_step(tmp_path):
  """The run reads several epochs of files of unequal length."""
  num_kills, num_steps = 4, 400
  _inputs(tmp_path, (50, 3, 90, 11))
  logs = {}
  for name in ("whole", "killed"):
    script, logs[name] = _spy(tmp_path, _SINGLE, name)
    command = [script, *_arguments(
        tmp_path, tmp_path / (name + "_run"), num_steps,
        save_checkpoints_steps=7)]
    generator = random.Random(5)
    for kill in range(num_kills if name == "killed" else 0):
      least = num_steps * kill // num_kills
      step = generator.randint(least + 10, least + num_steps // num_kills)
      with processes.Script(*command) as process:
        processes.wait_until(
            # A log is empty between its creation and its first line.
            lambda: logs[name].exists()
            and max(_read(logs[name]), default=0) >= step, process)
        process.send_signal(signal.SIGKILL)
      assert 0 < checkpoints.newest_step(str(tmp_path / "killed_run"))
    with processes.Script(*command) as process:
      assert process.wait() == 0
  whole, killed = map(_read, logs.values())
  assert set(whole) == set(killed) == set(range(1, num_steps + 1))
  assert any(len(reads) > 1 for reads in killed.values())
  for step, reads in killed.items():
    assert all(read == whole[step][0] for read in reads)
  for epoch in range(5):  # 154 records, two a step.
    records = [record for step in range(77 * epoch, 77 * (epoch + 1))
               for record in whole[step + 1][0]]
    assert sorted(records) == list(range(154))


@pytest.mark.slow
def test_an_epoch_continues_with_other_numbers_of_processes(tmp_path):
  """Two processes, then one, then three read each record exactly once."""
  _inputs(tmp_path, (20, 3, 12, 11))
  script, log = _spy(tmp_path, _DISTRIBUTED, "changing")
  # 4 steps of 4 records, 6 of 2 and 3 of 6 are 46.
  for num_processes, last_step in ((2, 4), (1, 10), (3, 13)):
    result = tiny.launch(
        "mpirun -np {0} -H localhost:{0} -bind-to none -mca pml ob1 "
        "-mca btl ^openib".format(num_processes).split(), script,
        *_arguments(tmp_path, tmp_path / "run", last_step,
                    scale_learning_rate=False))
    assert result.returncode == 0, result.stderr
  reads = [read for reads in _read(log).values() for read in reads]
  assert len(reads) == 4 * 2 + 6 + 3 * 3
  assert sorted(sum(reads, [])) == list(range(46))


def _forget_after(folder, log, step):
  """Leaves the files that a kill after a checkpoint would leave."""
  for path in folder.glob("model.ckpt-*"):
    if int(re.search(r"ckpt-(\d+)", path.name).group(1)) > step:
      path.unlink()
  (folder / "checkpoint").write_text(
      'model_checkpoint_path: "model.ckpt-{}"\n'.format(step))
  log.write_text("".join(
      line for line in log.read_text().splitlines(keepends=True)
      if json.loads(line)[0] <= step))


class _Run(NamedTuple):
  """A run, and the step at which it stops.

  Attributes:
    num_processes: processes under mpirun; 0 for the single-machine script.
    batch_size: sequences in a step of one process.
    num_train_steps: value of the flag, which the script divides by the number
      of processes.
    stop: the step from which the next run resumes; None if the run ends by
      itself.
  """
  num_processes: int
  batch_size: int
  num_train_steps: int
  stop: Optional[int] = None

  @property
  def multiplier(self) -> int:
    """Multiplier of the learning rate."""
    return self.num_processes or 1

  @property
  def step_size(self) -> int:
    """Sequences in a step of all processes."""
    return self.multiplier * self.batch_size


_LEARNING_RATE = 1e-3
_NUM_RECORDS = 48


@pytest.mark.slow
@pytest.mark.parametrize("runs, last_step", [
    ([_Run(1, 2, 24, 8), _Run(2, 2, 24)], 16),
    ([_Run(2, 2, 24, 4), _Run(1, 2, 24)], 20),
    ([_Run(1, 2, 24, 8), _Run(4, 2, 24, 10), _Run(2, 2, 24)], 14),
    ([_Run(0, 8, 6, 2), _Run(0, 16, 3)], 4),
    ([_Run(2, 4, 12, 2), _Run(2, 8, 6)], 4),
    ([_Run(0, 2, 24, 8), _Run(2, 2, 24)], 16),
], ids=["1-2", "2-1", "1-4-2", "batch 8-16, single",
        "batch 4-8, distributed", "single-2"])
def test_the_learning_rate_follows_the_sequences_read(
    tmp_path, runs, last_step, record_property):
  """The rate falls with the share of records read, each of them once."""
  _inputs(tmp_path, (20, 3, 12, 13))
  folder, log = tmp_path / "run", None
  run_of_step, first_step = {}, 0
  for run in runs:
    script, log = _spy(tmp_path, _DISTRIBUTED if run.num_processes else _SINGLE,
                       "changing", log_steps=1)
    result = tiny.launch(
        tiny.mpirun(run.num_processes) if run.num_processes else [], script,
        *_arguments(tmp_path, folder, run.num_train_steps,
                    train_batch_size=run.batch_size, save_checkpoints_steps=1,
                    keep_checkpoint_max=0, learning_rate=_LEARNING_RATE))
    assert result.returncode == 0, result.stderr
    if run.stop:
      _forget_after(folder, log, run.stop)
    stop = run.stop or checkpoints.newest_step(str(folder))
    run_of_step.update(dict.fromkeys(range(first_step + 1, stop + 1), run))
    first_step = stop
  assert first_step == last_step
  reads = [read for reads in _read(log).values() for read in reads]
  rates, done, table = tiny.curves(folder)["learning_rate"], 0, []
  for step, run in run_of_step.items():
    share = rates[step] / (_LEARNING_RATE * run.multiplier)
    table.append("step {}: {} sequences, rate {:.4f} of the highest".format(
        step, run.step_size, share))
    assert share == pytest.approx(1 - done / _NUM_RECORDS, rel=1e-5)
    done += run.step_size
  record_property("message", "\n".join(
      [*table, "{} records, {} of them different".format(
          len(sum(reads, [])), len(set(sum(reads, []))))]))
  assert done == _NUM_RECORDS
  assert sorted(sum(reads, [])) == list(range(_NUM_RECORDS))


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_resumed(tmp_path):
  """Earlier versions wrote fewer entries to record_order.json."""
  _inputs(tmp_path, (20, 3, 12, 13))
  script, log = _spy(tmp_path, _SINGLE, "older")
  folder = tmp_path / "run"
  for batch_size, num_steps in ((2, 8), (4, 12)):
    result = tiny.launch([], script, *_arguments(
        tmp_path, folder, num_steps, train_batch_size=batch_size))
    assert result.returncode == 0, result.stderr
    path = folder / "record_order.json"
    notes = json.loads(path.read_text())
    for note in notes:
      for name in ("skipped_steps", "window_records"):
        del note[name]
    path.write_text(json.dumps(notes))
  reads = [read for reads in _read(log).values() for read in reads]
  # 8 steps of 2 sequences and 8 of 4 are the 48 records.
  assert [len(read) for read in reads] == [2] * 8 + [4] * 8
  assert sorted(sum(reads, [])) == list(range(_NUM_RECORDS))
