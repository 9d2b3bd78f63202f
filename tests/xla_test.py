"""Tests of --use_xla on a CPU: one compilation, the same results.

Each run is a subprocess, because TensorFlow reads its settings once.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from records import schema
from records import tfrecord
import tiny

pytestmark = pytest.mark.slow
_NUM_STEPS = 50
_COMPILED = re.compile(r"Compiled (cluster\w*) (\d+) times")


def _run(script, *arguments, **flags):
  """Runs a script; returns its stderr, which logs the compilations of XLA."""
  words = ["--{}={}".format(name, value) for name, value in flags.items()]
  environment = {name: value for name, value in os.environ.items()
                 if name != "TF_XLA_FLAGS"}
  result = subprocess.run(
      [sys.executable, str(tiny.ROOT / script), *arguments, *words],
      env=dict(environment, TF_CPP_MIN_LOG_LEVEL="0",
               TF_CPP_VMODULE="device_compilation_profiler=1"),
      stderr=subprocess.PIPE, text=True, check=False)
  assert result.returncode == 0, result.stderr
  return result.stderr


def test_training_compiles_once_and_gives_the_same_variables(tmp_path):
  folder = tiny.trainer_inputs(tmp_path)
  flags = {
      "bert_config_file": folder / "bert_config.json",
      "init_checkpoint": folder / "bert_model.ckpt",
      "input_file": folder / "labelled.tfrecord", "truncation_factor": 4,
      "do_train": True, "num_train_steps": _NUM_STEPS, "num_warmup_steps": 0,
      "train_batch_size": 4, "learning_rate": 1e-4}
  compiled = {}
  for use_xla in (False, True):
    told = _run("network_distillation_single_machine_truncated.py",
                *tiny.SHAPE_FLAGS, output_dir=tmp_path / str(use_xla),
                use_xla=use_xla, **flags)
    assert "use_xla" not in told
    compiled[use_xla] = _COMPILED.findall(told)
  assert not compiled[False]
  # XLA compiles steps with and without summaries, and the initialization, each
  # as several clusters: a cluster that writes variables cannot read them again.
  # XLA compiles no cluster twice.
  assert 1 <= len(compiled[True]) < 12
  assert {times for _, times in compiled[True]} == {"1"}
  wanted, found = (
      tiny.read_checkpoint(tmp_path / name / "model.ckpt-{}".format(_NUM_STEPS))
      for name in ("False", "True"))
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


def test_xla_gives_the_same_labels(tmp_path):
  folder = tiny.trainer_inputs(tmp_path)
  examples = list(map(tiny.without_labels, tiny.random_examples(24, seed=3)))
  tiny.write_records(tmp_path / "masked.tfrecord", examples)
  labels = {}
  for use_xla in (False, True):
    output = tmp_path / str(use_xla)
    told = _run("extract_teacher_labels_truncated.py", *tiny.SHAPE_FLAGS,
                bert_config_file=folder / "bert_config.json",
                init_checkpoint=folder / "bert_model.ckpt", batch_size=8,
                input_file=tmp_path / "masked.tfrecord", output_file=output,
                truncation_factor=4, use_xla=use_xla)
    assert bool(_COMPILED.findall(told)) == use_xla
    labels[use_xla] = [
        tfrecord.decode(record)
        for record in tfrecord.read(str(output), "input_file")]
  for wanted, found in zip(*labels.values()):
    np.testing.assert_allclose(
        found[schema.TEACHER_PROBABILITIES],
        wanted[schema.TEACHER_PROBABILITIES], atol=1e-6)
    np.testing.assert_array_equal(found[schema.TEACHER_INDICES],
                                  wanted[schema.TEACHER_INDICES])
