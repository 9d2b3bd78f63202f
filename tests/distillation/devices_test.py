"""Tests of precision, XLA and the choice of GPUs."""

import re

import pytest
import tensorflow as tf

from distillation import devices
from util.command_line import InputError


@pytest.mark.parametrize("has_gpu, precision, wanted", [
    (False, "fp32", (0, 0)), (False, "fp16", (0, 0)), (True, "fp32", (0, 0)),
    # Float16 is in the graph: nothing is left to rewrite.
    (True, "fp16", (0, 0)), (True, "bf16", (0, 0)),
])
def test_a_session_is_set_up_for_precision_and_device(
    monkeypatch, has_gpu, precision, wanted):
  monkeypatch.setattr(devices, "has_gpu", lambda: has_gpu)
  monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
  options = devices.session_config(
      devices.DeviceOptions(precision, use_xla=True)).graph_options
  rewrites = options.rewrite_options
  assert (rewrites.auto_mixed_precision,
          rewrites.auto_mixed_precision_onednn_bfloat16) == wanted
  assert options.optimizer_options.global_jit_level == has_gpu


def test_cpus_compile_where_tensorflow_was_told_so(monkeypatch):
  monkeypatch.setattr(devices, "has_gpu", lambda: False)
  monkeypatch.setenv("TF_XLA_FLAGS", "--a --tf_xla_cpu_global_jit")
  options = devices.session_config(
      devices.DeviceOptions(use_xla=True)).graph_options
  assert options.optimizer_options.global_jit_level == 1
  # Fused operations of oneDNN would cut the graph to pieces.
  assert options.rewrite_options.remapping == options.rewrite_options.OFF


@pytest.mark.parametrize("has_it", [False, True])
def test_bf16_is_for_cpus_that_have_it(monkeypatch, has_it):
  monkeypatch.setattr(devices, "_has_arithmetic", lambda _: has_it)
  rewrites = devices.session_config(
      devices.DeviceOptions("bf16")).graph_options.rewrite_options
  assert rewrites.auto_mixed_precision_onednn_bfloat16 == has_it


def test_memory_grows_on_the_chosen_gpu():
  options = devices.session_config(gpu=1).gpu_options
  assert options.allow_growth and options.visible_device_list == "1"
  assert not devices.session_config().gpu_options.visible_device_list


@pytest.fixture(name="gpus")
def _gpus(monkeypatch):
  """The machine's GPUs, to be filled, and the calls that set them up."""
  gpus, calls = [], []
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: gpus)
  monkeypatch.setattr(tf.config, "set_visible_devices",
                      lambda chosen, kind: calls.append((chosen, kind)))
  monkeypatch.setattr(tf.config.experimental, "set_memory_growth",
                      lambda gpu, is_on: calls.append((gpu, is_on)))
  return gpus, calls


def test_each_process_has_a_gpu_of_its_own(gpus):
  gpus, calls = gpus
  assert devices.choose_gpu(1) is None and not calls
  gpus += ["a", "b"]
  assert devices.choose_gpu(1) == 1
  assert calls == [(["b"], "GPU"), ("b", True)]
  with pytest.raises(InputError, match="process 2 .* there are 2: .*HOST:2"):
    devices.choose_gpu(2)


def test_a_launcher_may_isolate_the_gpus(gpus):
  """Each process then sees one GPU, whatever its local rank is."""
  gpus, calls = gpus
  gpus.append("a")
  assert devices.choose_gpu(5) == 0
  assert calls == [(["a"], "GPU"), ("a", True)]


def test_one_process_leaves_the_choice_to_tensorflow(gpus):
  gpus, calls = gpus
  gpus += ["a", "b"]
  assert devices.choose_gpu(None) is None
  assert calls == [("a", True), ("b", True)]


@pytest.mark.parametrize("has_gpu, precision, use_xla, wanted", [
    (False, "fp32", False, ""), (True, "fp16", True, ""),
    (False, "fp16", False, "--precision=fp16.*slowly than in fp32.*a trial"),
    (True, "bf16", False, "--precision=bf16.*fp16 is for GPUs.*at fp32"),
    (False, "fp32", True, "--use_xla: TF_XLA_FLAGS lacks.*nothing is compiled"),
])
def test_what_the_device_cannot_do_is_told(
    monkeypatch, has_gpu, precision, use_xla, wanted):
  lines = []
  monkeypatch.setattr(devices, "has_gpu", lambda: has_gpu)
  monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
  monkeypatch.setattr(devices.logging, "warning",
                      lambda text, *values: lines.append(text % values))
  devices.warn_of_device(devices.DeviceOptions(precision, use_xla))
  assert len(lines) == bool(wanted)
  if wanted:
    assert re.search(wanted, lines[0])
