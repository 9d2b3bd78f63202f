"""Tests of precision, XLA and the choice of GPUs."""

import re
import types

import pytest
import tensorflow as tf

from distillation import devices
from util.command_line import InputError


@pytest.mark.parametrize("precision", devices.PRECISIONS)
@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_session_rewrites_no_precision(monkeypatch, has_gpu, precision):
  """The model's graph already casts to the compute type."""
  monkeypatch.setattr(devices, "has_gpu", lambda: has_gpu)
  monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
  options = devices.session_config(
      devices.DeviceOptions(precision, use_xla=True)).graph_options
  rewrites = options.rewrite_options
  assert (rewrites.auto_mixed_precision,
          rewrites.auto_mixed_precision_onednn_bfloat16) == (0, 0)
  assert options.optimizer_options.global_jit_level == has_gpu


def test_cpus_compile_if_tf_xla_flags_enable_it(monkeypatch):
  monkeypatch.setattr(devices, "has_gpu", lambda: False)
  monkeypatch.setenv("TF_XLA_FLAGS", "--a --tf_xla_cpu_global_jit")
  options = devices.session_config(
      devices.DeviceOptions(use_xla=True)).graph_options
  assert options.optimizer_options.global_jit_level == 1
  # oneDNN's fused operations would split the graph that XLA compiles.
  assert options.rewrite_options.remapping == options.rewrite_options.OFF


@pytest.mark.parametrize("cpu, capabilities, wanted", [
    ("avx512f avx512_bf16", [], tf.bfloat16), ("amx_bf16", [], tf.bfloat16),
    ("avx512f avx512_bf16x", [], tf.float32), ("avx2", [], tf.float32),
    # Volta, Turing, Ampere and Hopper: with a GPU, the CPU does not matter.
    ("avx512_bf16", [(7, 0)], tf.float32), ("avx2", [(7, 5)], tf.float32),
    ("avx2", [(8, 0)], tf.bfloat16), ("avx2", [(9, 0)], tf.bfloat16),
    ("avx2", [(9, 0), (7, 5)], tf.float32), ("avx2", [None], tf.float32),
])
def test_bf16_is_only_used_on_devices_that_support_it(
    monkeypatch, tmp_path, cpu, capabilities, wanted):
  cpuinfo = tmp_path / "cpuinfo"
  cpuinfo.write_text("flags : fpu {}\n".format(cpu))
  monkeypatch.setattr(devices, "_CPU_FEATURES", str(cpuinfo))
  monkeypatch.setattr(
      tf.config, "get_visible_devices", lambda kind: capabilities)
  monkeypatch.setattr(
      tf.config.experimental, "get_device_details",
      lambda gpu: {"compute_capability": gpu} if gpu else {})
  assert devices.compute_type("bf16") == wanted
  assert devices.compute_type("fp16") == tf.float16
  assert devices.compute_type("fp32") == tf.float32


def test_memory_grows_on_the_chosen_gpu():
  options = devices.session_config(gpu=1).gpu_options
  assert options.allow_growth and options.visible_device_list == "1"
  assert not devices.session_config().gpu_options.visible_device_list


@pytest.fixture(name="gpus")
def _gpus(monkeypatch):
  """The machine's GPUs, initially none, and the calls that set them up."""
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
  with pytest.raises(InputError, match="local rank 2: .* 2 GPUs; .*HOST:2"):
    devices.choose_gpu(2)


def test_the_only_visible_gpu_is_used_by_any_local_rank(gpus):
  """Some launchers show each process only one GPU."""
  gpus, calls = gpus
  gpus.append("a")
  assert devices.choose_gpu(5) == 0
  assert calls == [(["a"], "GPU"), ("a", True)]


def test_one_process_takes_one_gpu(gpus):
  gpus, calls = gpus
  gpus += ["a", "b"]
  assert devices.choose_gpu(None) == 0
  assert calls == [(["a"], "GPU"), ("a", True)]


class _Driver:
  """CUDA's driver on a machine with two GPUs."""

  def __init__(self, unused_name):
    pass

  def cuInit(self, unused_flags):  # pylint: disable=invalid-name
    return 0

  def cuDeviceGet(self, device, gpu):  # pylint: disable=invalid-name
    device._obj.value = 70 + gpu
    return 0 if gpu < 2 else 101

  def cuDeviceGetUuid(self, uuid, device):  # pylint: disable=invalid-name
    uuid.raw = bytes(range(15)) + bytes([device.value])
    return 0 if device.value < 72 else 101


def test_the_uuid_of_a_gpu_comes_from_the_driver(monkeypatch):
  assert devices.gpu_uuid(None) is None
  monkeypatch.setattr(devices.ctypes, "CDLL", _Driver)
  assert devices.gpu_uuid(1) == "000102030405060708090a0b0c0d0e47"
  assert devices.gpu_uuid(2) is None

  def is_missing(name):
    raise OSError(name)

  monkeypatch.setattr(devices.ctypes, "CDLL", is_missing)
  assert devices.gpu_uuid(1) is None


@pytest.mark.parametrize("uuids, warning", [
    (["a", "b", "c"], None), ([None, None], None), (["a"], None),
    (["a", "b", "a"], "Processes 0, 2 share one GPU (a), and its memory and "
                      "time: start one process per GPU (-np, -H HOST:N), or "
                      "check CUDA_VISIBLE_DEVICES."),
])
def test_processes_that_share_a_gpu_are_warned_of(caplog, uuids, warning):
  caplog.set_level("WARNING")
  devices.warn_of_shared_gpus(uuids)
  assert caplog.messages == ([warning] if warning else [])


@pytest.mark.parametrize("has_gpu", [False, True])
def test_processes_share_the_cores_of_a_machine(monkeypatch, has_gpu):
  monkeypatch.setattr(devices, "has_gpu", lambda: has_gpu)
  monkeypatch.setattr(devices.workers, "available_cores", lambda: 16)
  for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    monkeypatch.delenv(name, raising=False)
  config = devices.session_config(local_size=8)
  assert config.intra_op_parallelism_threads == 2
  assert config.inter_op_parallelism_threads == 2
  assert devices.session_config().intra_op_parallelism_threads == 0


@pytest.mark.parametrize("num_gpus, has_driver, transport, line, warning", [
    (0, False, None, "^Running on 4 CPU cores with [0-9.]+ GiB of memory in "
                     "fp32.$", ""),
    (0, True, "MPI", "in fp32; MPI all-reduces gradients.$",
     "NVIDIA driver, but TensorFlow finds no GPU.*CUDA_VISIBLE_DEVICES"),
    (2, True, "NCCL", "^Running on GPU 1, NVIDIA H200, with 120.0 GiB of "
                      "memory in fp32; NCCL all-reduces gradients.$", ""),
    (2, True, "Gloo", "Gloo all-reduces gradients.$",
     "built without NCCL: Gloo all-reduces gradients in the memory"),
])
def test_a_run_logs_its_device_and_precision(
    monkeypatch, tmp_path, num_gpus, has_driver, transport, line, warning):
  driver = tmp_path / "version"
  if has_driver:
    driver.write_text("NVRM version")
  monkeypatch.setattr(devices, "_NVIDIA_DRIVER", str(driver))
  monkeypatch.setattr(devices.workers, "available_cores", lambda: 4)
  monkeypatch.setattr(
      tf.config, "list_physical_devices", lambda kind: ["gpu"] * num_gpus)
  monkeypatch.setattr(tf.config.experimental, "get_device_details",
                      lambda gpu: {"device_name": "NVIDIA H200"})
  monkeypatch.setattr(tf.compat.v1.Session, "list_devices", lambda session: [
      types.SimpleNamespace(device_type=kind, memory_limit_bytes=limit << 30)
      for kind, limit in (("CPU", 200), ("GPU", 120))])
  said = {"info": [], "warning": []}
  for kind, lines in said.items():
    monkeypatch.setattr(
        devices.logging, kind,
        lambda text, *values, lines=lines: lines.append(text % values))
  devices.report_device(devices.DeviceOptions(), num_gpus - 1, transport)
  assert re.search(line, *said["info"])
  assert len(said["warning"]) == bool(warning)
  assert re.search(warning, "".join(said["warning"]))


@pytest.mark.parametrize("has_gpu, precision, use_xla, wanted", [
    (False, "fp32", False, ""), (True, "fp16", True, ""),
    (False, "fp16", False, "--precision=fp16: CPUs.*slower in fp16.*a trial"),
    (True, "bf16", False, "--precision=bf16: this GPU does not.*Ampere.*use "
                          "fp16.*running in fp32"),
    (False, "bf16", False, "--precision=bf16: this CPU does not.*amx_bf16"
                           ".*running in fp32"),
    (False, "fp32", True, "--use_xla: TF_XLA_FLAGS lacks.*nothing is compiled"),
])
def test_unsupported_options_of_the_device_are_warned_of(
    monkeypatch, has_gpu, precision, use_xla, wanted):
  lines = []
  monkeypatch.setattr(devices, "has_gpu", lambda: has_gpu)
  monkeypatch.setattr(
      devices, "_is_supported", lambda precision: precision != "bf16")
  monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
  monkeypatch.setattr(devices.logging, "warning",
                      lambda text, *values: lines.append(text % values))
  monkeypatch.setattr(devices, "_describe_device", lambda gpu: "a device")
  monkeypatch.setattr(devices, "_NVIDIA_DRIVER", "")
  devices.report_device(devices.DeviceOptions(precision, use_xla))
  assert len(lines) == bool(wanted)
  if wanted:
    assert re.search(wanted, lines[0])
