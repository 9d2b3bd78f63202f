r"""Trains a small BERT on a teacher's labels, on many GPUs, under Horovod.

  mpirun -np 8 -H localhost:8 -bind-to none -map-by slot \
    -x NCCL_DEBUG=INFO -x LD_LIBRARY_PATH -x PATH \
    -mca pml ob1 -mca btl ^openib \
    python network_distillation_distributed_truncated.py \
    --bert_config_file student/bert_config.json \
    --input_file 'data/labelled/wiki_distill_*.tfrecord' \
    --eval_input_file data/labelled/heldout.tfrecord \
    --output_dir student/run \
    --init_checkpoint teacher/bert_model.ckpt \
    --hard_label_weight 0.1 --do_train True --do_eval True

Each process reads different records, --train_batch_size sequences per step; the
global batch size is the sum over all processes. By default the script
multiplies the learning rate by the number of processes and divides the numbers
of steps by it (--scale_learning_rate). All processes evaluate. Rank 0 writes,
and only rank 0 needs access to --output_dir. The same command resumes from the
newest checkpoint, with any number of processes. Without a launcher the script
runs as one process.

Evaluation reads --max_eval_steps x --eval_batch_size = 800 records by default,
from the start of --eval_input_file. Without --eval_input_file it reads training
data.

Before the first step the processes compare flags, files and packages. All
processes end with a one-line error if a process differs, does not find the
records, dies, or does not answer for a minute.

The script sets these variables unless the environment has them:

  HOROVOD_STALL_CHECK_TIME_SECONDS=30     warns, and names slow processes
  HOROVOD_STALL_SHUTDOWN_TIME_SECONDS=60  ends all processes; 0 never does
  HOROVOD_CONTROLLER=gloo                 only without a launcher
  HOROVOD_CPU_OPERATIONS=gloo             only without a launcher
  OMPI_MCA_mpi_yield_when_idle=1          only on CPUs: idle processes of Open
                                          MPI leave the cores to others

On CPUs the processes of a host divide its cores among their threads, unless
TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS are set.
"""

import os

if __name__ == "__main__":  # To be set before TensorFlow is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")

import dataclasses
import sys
from typing import Any, MutableMapping, Optional

from absl import flags

from util import command_line
from util import launchers

try:
  import horovod.tensorflow as hvd
except ImportError as horovod_error:
  if __name__ != "__main__":
    raise
  command_line.print_error(command_line.InputError(
      "Horovod is missing, or was built without TensorFlow ({}): run "
      "./setup.sh, which builds and checks it".format(
          str(horovod_error).split("\n")[0])))
  sys.exit(1)

from distillation import devices
from distillation import options
from distillation import training

_STALL_SHUTDOWN = "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"
# Horovod has no limit by default.
_STALL_LIMITS = {"HOROVOD_STALL_CHECK_TIME_SECONDS": "30",
                 _STALL_SHUTDOWN: "60"}
# Without mpirun, MPI starts a helper from a prefix that may not exist.
_WITHOUT_LAUNCHER = {"HOROVOD_CONTROLLER": "gloo",
                     "HOROVOD_CPU_OPERATIONS": "gloo"}
_ON_CPUS = {"OMPI_MCA_mpi_yield_when_idle": "1"}
_COMPRESSIONS = {"none": hvd.Compression.none, "fp16": hvd.Compression.fp16}


@dataclasses.dataclass(frozen=True)
class DistributionOptions:
  """Options of distributed training; fields have the names of the flags."""
  scale_learning_rate: bool = True
  allreduce_compression: str = "none"


def define_flags() -> None:
  """Defines the flags of this script."""
  options.define_flags()
  flags.DEFINE_bool(
      "scale_learning_rate", True,
      "Whether to multiply learning_rate, and divide num_train_steps and "
      "num_warmup_steps, by the number of processes: the command then reads "
      "the same number of sequences with any number of processes. False leaves "
      "all three unchanged, for a schedule made for the global batch size.")
  flags.DEFINE_enum(
      "allreduce_compression", "none", sorted(_COMPRESSIONS, reverse=True),
      "Compression of gradients between processes: fp16 halves the bytes and "
      "rounds each gradient to 11 bits; it helps if the network is slower than "
      "the GPUs. Variables stay float32.")


def set_engine_defaults(environment: MutableMapping[str, str],
                        has_gpu: bool) -> None:
  """Sets variables that Horovod and MPI read, unless they are set.

  Args:
    environment: environment of this process.
    has_gpu: whether TensorFlow finds a GPU.
  """
  defaults = dict(_STALL_LIMITS)
  if launchers.is_alone(environment):
    defaults.update(_WITHOUT_LAUNCHER)
  if not has_gpu:
    defaults.update(_ON_CPUS)
  for name, value in defaults.items():
    environment.setdefault(name, value)


def _wrap_optimizer(optimizer: Any, compression: str) -> Any:
  # Dense, because the decoder is tied to the word embeddings: their gradient
  # has a value in every row, 94 MB a step for BERT-Base. A sparse gradient
  # would add the rows of the input, and Horovod all-gathers sparse gradients.
  return hvd.DistributedOptimizer(
      optimizer, compression=_COMPRESSIONS[compression], sparse_as_dense=True)


def _transport() -> Optional[str]:
  """Returns the transport of gradients; None for one process."""
  if hvd.size() == 1:
    return None
  if devices.has_gpu() and hvd.nccl_built():
    return "NCCL"
  return "MPI" if hvd.mpi_enabled() else "Gloo"


def main() -> None:
  """Runs the trainer in one of Horovod's processes."""
  set_engine_defaults(os.environ, devices.has_gpu())
  hvd.init()
  distribution = command_line.options(DistributionOptions)
  training.run(command_line.options(options.TrainerOptions),
               training.Processes(
                   rank=hvd.rank(), size=hvd.size(),
                   local_rank=hvd.local_rank(), local_size=hvd.local_size(),
                   wrap_optimizer=lambda optimizer: _wrap_optimizer(
                       optimizer, distribution.allreduce_compression),
                   broadcast_hooks=(hvd.BroadcastGlobalVariablesHook(0),),
                   reduce_sum=lambda tensor, name: hvd.allreduce(
                       tensor, op=hvd.Sum, name=name),
                   gather=lambda tensor, name: hvd.allgather(
                       tensor, name=name),
                   transport=_transport(),
                   flags=dataclasses.asdict(distribution),
                   scale_learning_rate=distribution.scale_learning_rate,
                   stall_seconds=float(os.environ[_STALL_SHUTDOWN])))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=options.REQUIRED_FLAGS)
