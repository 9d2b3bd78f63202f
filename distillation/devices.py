"""Precision, XLA, and the choice and memory of GPUs."""

import collections
import contextlib
import ctypes
import dataclasses
import os
import re
import socket
from typing import Iterator, Optional, Sequence

from absl import logging
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from util import workers
from util.command_line import InputError

# Arithmetic of the matrix products.
PRECISIONS = ("fp32", "bf16", "fp16")
_COMPUTE_TYPES = {"fp32": tf.float32, "bf16": tf.bfloat16, "fp16": tf.float16}
# The first GPUs that multiply in bfloat16, Ampere.
_BFLOAT16_CAPABILITY = (8, 0)
_CPU_FEATURES = "/proc/cpuinfo"
# Is there where the driver of NVIDIA's GPUs is loaded.
_NVIDIA_DRIVER = "/proc/driver/nvidia/version"
_CUDA_DRIVER = "libcuda.so.1"
# In TF_XLA_FLAGS, which the scripts set, it lets XLA compile for CPUs.
_XLA_FLAG = "--tf_xla_cpu_global_jit"
# How long a TPU may take to answer.
_ANSWER_SECONDS = 10
# The line of an error after which its cause stands.
_NODE = re.compile("Node: '.*'$")


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
  """Where a graph runs, and in what arithmetic.

  Attributes:
    precision: one of `PRECISIONS`. Variables are float32 in any case.
    use_xla: whether XLA compiles the graph.
  """
  precision: str = "fp32"
  use_xla: bool = False


def session_config(options: DeviceOptions = DeviceOptions(),
                   gpu: Optional[int] = None, local_size: int = 1
                  ) -> tf1.ConfigProto:
  """Returns a session's settings.

  Args:
    options: precision and compiler.
    gpu: the GPU to use, None for TensorFlow's choice.
    local_size: processes that share the cores of this machine; one alone has
      as many threads as TensorFlow likes.
  """
  config = tf1.ConfigProto()
  config.gpu_options.allow_growth = True
  if gpu is not None:
    config.gpu_options.visible_device_list = str(gpu)
  if local_size > 1:
    # More threads than cores would take them from the other processes.
    num_threads = max(1, workers.available_cores() // local_size)
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
      config.intra_op_parallelism_threads = num_threads
    if "TF_NUM_INTEROP_THREADS" not in os.environ:
      config.inter_op_parallelism_threads = num_threads
  rewrites = config.graph_options.rewrite_options
  if options.use_xla and _has_compiler():
    config.graph_options.optimizer_options.global_jit_level = (
        tf1.OptimizerOptions.ON_1)
    # XLA does not know the fused operations of CPUs.
    rewrites.remapping = rewrites.OFF
  return config


def compute_type(precision: str) -> tf.DType:
  """Returns the type in which a model's graph is to be built."""
  return _COMPUTE_TYPES[arithmetic(precision)]


def choose_gpu(local_rank: Optional[int]) -> Optional[int]:
  """Chooses one GPU for a process; TensorFlow takes its memory as needed.

  To be called before anything runs on a device: TensorFlow takes the whole
  memory of every GPU that it sees when it first touches one.

  Args:
    local_rank: the process among those of its machine; None where it is alone,
      which takes the first GPU.

  Returns:
    The GPU's number, None on a machine without GPUs.

  Raises:
    InputError: there are fewer GPUs than processes.
  """
  gpus = tf.config.list_physical_devices("GPU")
  if not gpus:
    return None
  # Where just one is visible, the launcher has made the choice.
  chosen = (local_rank or 0) if len(gpus) > 1 else 0
  if chosen >= len(gpus):
    raise InputError(
        "process {} of this machine finds no GPU of its own, as there are "
        "{}: start no more processes than GPUs (-np, -H HOST:{})".format(
            local_rank, len(gpus), len(gpus)))
  tf.config.set_visible_devices([gpus[chosen]], "GPU")
  tf.config.experimental.set_memory_growth(gpus[chosen], True)
  return chosen


def gpu_uuid(gpu: Optional[int]) -> Optional[str]:
  """Returns what identifies a GPU wherever it is visible, in hexadecimal.

  It asks CUDA's driver, which takes no memory for that.

  Args:
    gpu: as `choose_gpu` returns it.

  Returns:
    The UUID; None where there is no GPU or no driver that tells.
  """
  if gpu is None:
    return None
  uuid = ctypes.create_string_buffer(16)
  device = ctypes.c_int()
  try:
    driver = ctypes.CDLL(_CUDA_DRIVER)
    failures = [driver.cuInit(0),
                driver.cuDeviceGet(ctypes.byref(device), gpu),
                driver.cuDeviceGetUuid(uuid, device)]
  except (OSError, AttributeError):
    return None
  return None if any(failures) else uuid.raw.hex()


def warn_of_shared_gpus(uuids: Sequence[Optional[str]]) -> None:
  """Warns where processes compute on the same GPU.

  Args:
    uuids: as `gpu_uuid` returns them, by rank.
  """
  ranks = collections.defaultdict(list)
  for rank, uuid in enumerate(uuids):
    ranks[uuid].append(str(rank))
  for uuid, sharing in ranks.items():
    if uuid and len(sharing) > 1:
      logging.warning(
          "Processes %s share one GPU (%s), and its memory and time: start one "
          "process per GPU (-np, -H HOST:N), or check CUDA_VISIBLE_DEVICES.",
          ", ".join(sharing), uuid)


def find_tpu(name: Optional[str], zone: Optional[str], project: Optional[str],
             master: Optional[str]
            ) -> Optional[tf.distribute.cluster_resolver.TPUClusterResolver]:
  """Finds the TPU to run on.

  Args:
    name: its name, or its grpc:// address.
    zone: where it is; None for the zone of this machine.
    project: whose it is; None for that of this machine.
    master: address of a TensorFlow server, where there is no name.

  Returns:
    What tells its address; None where `master` does.

  Raises:
    InputError: there is no such TPU, or it does not answer.
  """
  if not name and not master:
    raise InputError("--use_tpu=True: which one? Set --tpu_name to the name or "
                     "the grpc:// address of a TPU")
  cluster, address = None, master or ""
  if name:
    try:
      cluster = tf.distribute.cluster_resolver.TPUClusterResolver(
          name, zone=zone, project=project)
      address = cluster.master()
    # Google's interface and the libraries below it fail in ways of their own.
    except Exception as error:  # pylint: disable=broad-except
      raise InputError(
          "--tpu_name={}: there is no such TPU, or it cannot be asked for from "
          "here ({}); check the name, --tpu_zone and --gcp_project, or give "
          "its grpc:// address".format(name, str(error).split("\n")[0])
          ) from None
  _check_answers(address, "tpu_name" if name else "master")
  return cluster


def _check_answers(address: str, flag: str) -> None:
  """Raises InputError where no server answers; TensorFlow waits for minutes."""
  found = re.fullmatch(r"(?:grpc://)?\[?(.+?)\]?:([0-9]+)", address)
  if not found:
    return  # Not a server of another machine.
  try:
    socket.create_connection(
        (found.group(1), int(found.group(2))), _ANSWER_SECONDS).close()
  except (OSError, OverflowError) as error:
    raise InputError("--{}: {} does not answer ({}); check that the TPU runs "
                     "and can be reached from here".format(
                         flag, address, error)) from None


def report_device(options: DeviceOptions, gpu: Optional[int] = None,
                  transport: Optional[str] = None) -> None:
  """Logs where and how a graph runs; then as `warn_of_device`.

  Args:
    options: what is asked for.
    gpu: the GPU that the process uses; None is the first one, if there is one.
    transport: what carries gradients between processes, NCCL, MPI or Gloo;
      None where a process is alone.
  """
  logging.info(
      "Running on %s in %s%s.", _describe_device(gpu),
      arithmetic(options.precision), "; gradients travel by {}".format(
          transport) if transport else "")
  warn_of_device(options, transport)


def warn_of_device(options: DeviceOptions,
                   transport: Optional[str] = None) -> None:
  """Warns where a graph does not run as it is asked for, or as it could.

  Args:
    options: what is asked for.
    transport: as for `report_device`.
  """
  if not has_gpu() and os.path.exists(_NVIDIA_DRIVER):
    logging.warning(
        "This machine has an NVIDIA driver, but TensorFlow finds no GPU: the "
        "run uses the CPU. Check nvidia-smi and CUDA_VISIBLE_DEVICES; "
        "docs/devices.md says which packages TensorFlow needs.")
  if has_gpu() and transport and transport != "NCCL":
    logging.warning(
        "Horovod was built without NCCL: gradients travel by %s, through the "
        "memory of the host. docs/devices.md says how to build Horovod with "
        "NCCL.", transport)
  if not _has_arithmetic(options.precision):
    logging.warning(
        "--precision=%s: this %s has no such arithmetic (bf16 needs %s); "
        "running at fp32.", options.precision, *(
            ("GPU", "compute capability 8.0, Ampere; use fp16") if has_gpu()
            else ("CPU", "avx512_bf16 or amx_bf16")))
  elif options.precision == "fp16" and not has_gpu():
    logging.warning(
        "--precision=fp16: CPUs compute in float16 far more slowly than in "
        "fp32; this is good for a trial.")
  if options.use_xla and not _has_compiler():
    logging.warning("--use_xla: TF_XLA_FLAGS lacks %s, which CPUs need; "
                    "nothing is compiled.", _XLA_FLAG)


def _describe_device(gpu: Optional[int]) -> str:
  """Returns kind and memory of the device that a process uses."""
  if not has_gpu():
    return "{} CPU cores with {:.1f} GiB of memory".format(
        workers.available_cores(),
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30)
  gpu = gpu or 0
  details = tf.config.experimental.get_device_details(
      tf.config.list_physical_devices("GPU")[gpu])
  with tf.Graph().as_default(), tf1.Session(
      config=session_config(gpu=gpu)) as session:
    memory = max((device.memory_limit_bytes for device in session.list_devices()
                  if device.device_type == "GPU"), default=0)
  return "GPU {}, {}, with {:.1f} GiB of memory".format(
      gpu, details.get("device_name", "of an unknown kind"), memory / 2 ** 30)


def has_gpu() -> bool:
  """Says whether TensorFlow finds a GPU."""
  return bool(tf.config.list_physical_devices("GPU"))


def arithmetic(precision: str) -> str:
  """Returns the precision that this device gives where one is asked for."""
  return precision if _has_arithmetic(precision) else "fp32"


def _has_arithmetic(precision: str) -> bool:
  """Returns whether the device computes in a precision."""
  if precision != "bf16":
    return True
  gpus = tf.config.get_visible_devices("GPU")
  if gpus:
    return all(
        tf.config.experimental.get_device_details(gpu).get(
            "compute_capability", (0, 0)) >= _BFLOAT16_CAPABILITY
        for gpu in gpus)
  try:
    with open(_CPU_FEATURES, encoding="ascii") as file:
      return re.search(r"\b(avx512_bf16|amx_bf16)\b", file.read()) is not None
  except OSError:
    return False


def _has_compiler() -> bool:
  """Says whether TensorFlow compiles graphs for this device when asked to."""
  return has_gpu() or _XLA_FLAG in os.environ.get("TF_XLA_FLAGS", "")


@contextlib.contextmanager
def exhaustion_errors(remedy: str) -> Iterator[None]:
  """Turns memory or disk that runs out in TensorFlow into InputError.

  Args:
    remedy: what to do, for the error.
  """
  try:
    yield
  except tf.errors.ResourceExhaustedError as error:
    raise InputError("memory or disk ran out ({}): {}".format(
        first_line(error), remedy)) from error


def first_line(error: tf.errors.OpError) -> str:
  """Returns what a TensorFlow error says first, after its headings."""
  lines = [line.strip() for line in error.message.split("\n")]
  # Errors of a node begin with where the node was defined.
  nodes = [i for i, line in enumerate(lines) if _NODE.match(line)]
  lines = lines[nodes[0] + 1:] if nodes else lines
  return next((line for line in lines
               if line and line != "Graph execution error:"), "")
