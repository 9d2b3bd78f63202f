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

# Values of --precision: the precision of matrix products.
PRECISIONS = ("fp32", "bf16", "fp16")
_COMPUTE_TYPES = {"fp32": tf.float32, "bf16": tf.bfloat16, "fp16": tf.float16}
# Compute capability of Ampere, the first GPUs with bfloat16.
_BFLOAT16_CAPABILITY = (8, 0)
_CPU_FEATURES = "/proc/cpuinfo"
# Exists where NVIDIA's kernel driver is loaded.
_NVIDIA_DRIVER = "/proc/driver/nvidia/version"
_CUDA_DRIVER = "libcuda.so.1"
# Part of TF_XLA_FLAGS, set by the scripts, that enables XLA on CPUs.
_XLA_FLAG = "--tf_xla_cpu_global_jit"
# Timeout of the connection to a TPU.
_CONNECT_SECONDS = 10
# In the message of a TensorFlow error, the line before the cause.
_NODE = re.compile("Node: '.*'$")


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
  """Precision and compiler of a graph.

  Attributes:
    precision: one of `PRECISIONS`. Variables are always float32.
    use_xla: whether XLA compiles the graph.
  """
  precision: str = "fp32"
  use_xla: bool = False


def session_config(options: DeviceOptions = DeviceOptions(),
                   gpu: Optional[int] = None, local_size: int = 1
                  ) -> tf1.ConfigProto:
  """Returns the settings of a session.

  Args:
    options: precision and compiler.
    gpu: number of the GPU to use; None for TensorFlow's default.
    local_size: number of processes that share the cores of this machine; for
      one process TensorFlow chooses the number of threads.
  """
  config = tf1.ConfigProto()
  config.gpu_options.allow_growth = True
  if gpu is not None:
    config.gpu_options.visible_device_list = str(gpu)
  if local_size > 1:
    # The threads of all processes together do not exceed the cores.
    num_threads = max(1, workers.available_cores() // local_size)
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
      config.intra_op_parallelism_threads = num_threads
    if "TF_NUM_INTEROP_THREADS" not in os.environ:
      config.inter_op_parallelism_threads = num_threads
  rewrites = config.graph_options.rewrite_options
  if options.use_xla and _has_compiler():
    config.graph_options.optimizer_options.global_jit_level = (
        tf1.OptimizerOptions.ON_1)
    # XLA does not compile the fused operations of CPUs.
    rewrites.remapping = rewrites.OFF
  return config


def compute_type(precision: str) -> tf.DType:
  """Returns the dtype of a model's graph for a requested precision."""
  return _COMPUTE_TYPES[effective_precision(precision)]


def choose_gpu(local_rank: Optional[int]) -> Optional[int]:
  """Makes one GPU visible to this process, with memory growth.

  Must run before TensorFlow uses a device: by default TensorFlow then allocates
  the whole memory of every visible GPU.

  Args:
    local_rank: rank of this process on its machine; None for the first GPU.

  Returns:
    The GPU's number; None on a machine without GPUs.

  Raises:
    InputError: if there are fewer GPUs than processes.
  """
  gpus = tf.config.list_physical_devices("GPU")
  if not gpus:
    return None
  # A launcher may already have made just one GPU visible.
  chosen = (local_rank or 0) if len(gpus) > 1 else 0
  if chosen >= len(gpus):
    raise InputError(
        "there is no GPU for the process with local rank {}: this machine has "
        "{} GPUs; start no more processes than GPUs (-np, -H HOST:{})".format(
            local_rank, len(gpus), len(gpus)))
  tf.config.set_visible_devices([gpus[chosen]], "GPU")
  tf.config.experimental.set_memory_growth(gpus[chosen], True)
  return chosen


def gpu_uuid(gpu: Optional[int]) -> Optional[str]:
  """Returns the UUID of a GPU, in hexadecimal.

  CUDA's driver answers without allocating GPU memory.

  Args:
    gpu: as returned by `choose_gpu`.

  Returns:
    The UUID; None without a GPU or a driver that knows the UUID.
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
  """Warns if several processes compute on the same GPU.

  Args:
    uuids: the UUID of each process's GPU, by rank; see `gpu_uuid`.
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
    name: name or grpc:// address of the TPU.
    zone: zone of the TPU; None for the zone of this machine.
    project: project of the TPU; None for the project of this machine.
    master: address of a TensorFlow server, if there is no name.

  Returns:
    The resolver of the address; None if only `master` is given.

  Raises:
    InputError: if the TPU does not exist or does not answer.
  """
  if not name and not master:
    raise InputError("--use_tpu=True needs the name or the grpc:// address of "
                     "a TPU: set --tpu_name")
  cluster, address = None, master or ""
  if name:
    try:
      cluster = tf.distribute.cluster_resolver.TPUClusterResolver(
          name, zone=zone, project=project)
      address = cluster.master()
    # Google's client libraries document no common error class.
    except Exception as error:  # pylint: disable=broad-except
      raise InputError(
          "--tpu_name={}: there is no such TPU, or this machine cannot look it "
          "up ({}); check the name, --tpu_zone and --gcp_project, or give the "
          "grpc:// address of the TPU".format(
              name, str(error).split("\n")[0])) from None
  _check_connection(address, "tpu_name" if name else "master")
  return cluster


def _check_connection(address: str, flag: str) -> None:
  """Raises InputError if no server answers; TensorFlow would wait minutes."""
  found = re.fullmatch(r"(?:grpc://)?\[?(.+?)\]?:([0-9]+)", address)
  if not found:
    return  # Not the address of a remote server.
  try:
    socket.create_connection(
        (found.group(1), int(found.group(2))), _CONNECT_SECONDS).close()
  except (OSError, OverflowError) as error:
    raise InputError("--{}: {} does not answer ({}); check that the TPU runs "
                     "and can be reached from here".format(
                         flag, address, error)) from None


def report_device(options: DeviceOptions, gpu: Optional[int] = None,
                  transport: Optional[str] = None) -> None:
  """Logs the device and precision of a graph, then calls `warn_of_device`.

  Args:
    options: the requested precision and compiler.
    gpu: number of this process's GPU; None for the first GPU, if any.
    transport: transport of gradients between processes, NCCL, MPI or Gloo; None
      for one process.
  """
  logging.info(
      "Running on %s in %s%s.", _describe_device(gpu),
      effective_precision(options.precision),
      "; {} all-reduces gradients".format(transport) if transport else "")
  warn_of_device(options, transport)


def warn_of_device(options: DeviceOptions,
                   transport: Optional[str] = None) -> None:
  """Warns of unused devices, slow transports and unsupported options.

  Args:
    options: the requested precision and compiler.
    transport: as for `report_device`.
  """
  if not has_gpu() and os.path.exists(_NVIDIA_DRIVER):
    logging.warning(
        "This machine has an NVIDIA driver, but TensorFlow finds no GPU: the "
        "run uses the CPU. Check nvidia-smi and CUDA_VISIBLE_DEVICES; "
        "docs/devices.md says which packages TensorFlow needs.")
  if has_gpu() and transport and transport != "NCCL":
    logging.warning(
        "Horovod was built without NCCL: %s all-reduces gradients in the "
        "memory of the host, which is slower. docs/devices.md says how to "
        "build Horovod with NCCL.", transport)
  if not _is_supported(options.precision):
    logging.warning(
        "--precision=%s: this %s does not support bfloat16 (needed: %s); "
        "running in fp32.", options.precision, *(
            ("GPU", "compute capability 8.0, Ampere; use fp16") if has_gpu()
            else ("CPU", "avx512_bf16 or amx_bf16")))
  elif options.precision == "fp16" and not has_gpu():
    logging.warning(
        "--precision=fp16: CPUs are far slower in fp16 than in fp32; use fp16 "
        "on CPUs only for a trial run.")
  if options.use_xla and not _has_compiler():
    logging.warning("--use_xla: TF_XLA_FLAGS lacks %s, which XLA needs on "
                    "CPUs; nothing is compiled.", _XLA_FLAG)


def _describe_device(gpu: Optional[int]) -> str:
  """Returns the kind and memory of this process's device."""
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
  """Returns whether TensorFlow finds a GPU."""
  return bool(tf.config.list_physical_devices("GPU"))


def effective_precision(precision: str) -> str:
  """Returns the requested precision if this device supports it, else fp32."""
  return precision if _is_supported(precision) else "fp32"


def _is_supported(precision: str) -> bool:
  """Returns whether the device supports a precision."""
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
  """Returns whether XLA can compile graphs for this device."""
  return has_gpu() or _XLA_FLAG in os.environ.get("TF_XLA_FLAGS", "")


@contextlib.contextmanager
def exhaustion_errors(remedy: str) -> Iterator[None]:
  """Turns TensorFlow's ResourceExhaustedError into InputError.

  Args:
    remedy: what the user can do, for the message.

  Raises:
    InputError: if memory or disk space runs out in the block.
  """
  try:
    yield
  except tf.errors.ResourceExhaustedError as error:
    raise InputError("memory or disk ran out ({}): {}".format(
        first_line(error), remedy)) from error


def first_line(error: tf.errors.OpError) -> str:
  """Returns the line of a TensorFlow error that states the cause."""
  lines = [line.strip() for line in error.message.split("\n")]
  # Errors of a node begin with the definition of the node.
  nodes = [i for i, line in enumerate(lines) if _NODE.match(line)]
  lines = lines[nodes[0] + 1:] if nodes else lines
  return next((line for line in lines
               if line and line != "Graph execution error:"), "")
