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

Each process reads its own share of the records, --train_batch_size sequences
per step; the global batch size is that of all processes together. By default
the script multiplies the learning rate by the number of processes and divides
the numbers of steps by it: --scale_learning_rate. All processes evaluate. Rank
0 writes, and only rank 0 needs to see --output_dir. The same command resumes
from the newest checkpoint, with any number of processes. Without a launcher the
script runs as one process.

Evaluation reads --max_eval_steps x --eval_batch_size = 800 records by default,
from the start of --eval_input_file. Without --eval_input_file it reads training
data.

Before the first step the processes compare flags, files and packages. A process
that differs, or does not see the records, ends all processes with one line. So
does a process that dies, or does not answer for a minute.

The script sets these variables unless the environment has them:

  HOROVOD_STALL_CHECK_TIME_SECONDS=30     a warning that names slow processes
  HOROVOD_STALL_SHUTDOWN_TIME_SECONDS=60  ends all processes; 0 waits for ever
  HOROVOD_CONTROLLER=gloo                 without a launcher, which MPI needs
  HOROVOD_CPU_OPERATIONS=gloo             likewise
  OMPI_MCA_mpi_yield_when_idle=1          on CPUs, where Open MPI spins on the
                                          cores that compute

On CPUs each process gets its share of the cores as threads, unless
TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS are set.
"""

import os

if __name__ == "__main__":  # TensorFlow reads these once, the first early.
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
# By default Horovod waits for ever.
_STALL_LIMITS = {"HOROVOD_STALL_CHECK_TIME_SECONDS": "30",
                 _STALL_SHUTDOWN: "60"}
# MPI without mpirun looks for a helper under a prefix that may not be there.
_WITHOUT_LAUNCHER = {"HOROVOD_CONTROLLER": "gloo",
                     "HOROVOD_CPU_OPERATIONS": "gloo"}
_ON_CPUS = {"OMPI_MCA_mpi_yield_when_idle": "1"}
_COMPRESSIONS = {"none": hvd.Compression.none, "fp16": hvd.Compression.fp16}


@dataclasses.dataclass(frozen=True)
class DistributionOptions:
  """How processes train together; the fields have the names of the flags."""
  scale_learning_rate: bool = True
  allreduce_compression: str = "none"


def define_flags() -> None:
  """Defines the flags of this script."""
  options.define_flags()
  flags.DEFINE_bool(
      "scale_learning_rate", True,
      "Whether learning_rate is multiplied, and num_train_steps and "
      "num_warmup_steps are divided, by the number of processes: the same "
      "command then reads as many sequences on any number of them. False takes "
      "all three as they are given, for a schedule that was made for the large "
      "batch of all processes.")
  flags.DEFINE_enum(
      "allreduce_compression", "none", sorted(_COMPRESSIONS, reverse=True),
      "How gradients travel between processes: fp16 halves the bytes, which "
      "pays where the network is slower than the GPUs, and rounds each "
      "gradient to 11 bits. The variables stay float32.")


def set_engine_defaults(environment: MutableMapping[str, str],
                        has_gpu: bool) -> None:
  """Sets what Horovod and MPI read when they start, where nothing is set.

  Args:
    environment: of this process.
    has_gpu: whether TensorFlow finds one.
  """
  defaults = dict(_STALL_LIMITS)
  if launchers.is_alone(environment):
    defaults.update(_WITHOUT_LAUNCHER)
  if not has_gpu:
    defaults.update(_ON_CPUS)
  for name, value in defaults.items():
    environment.setdefault(name, value)


def _wrap_optimizer(optimizer: Any, compression: str) -> Any:
  # As dense tensors: the decoder is tied to the word embedding, whose gradient
  # so has a value in every row, 30522 x 768 float32 or 94 MB a step for
  # BERT-Base. As a sparse one it would have the rows of the input on top, and
  # sparse gradients are all-gathered: each process gets the rows of all.
  return hvd.DistributedOptimizer(
      optimizer, compression=_COMPRESSIONS[compression], sparse_as_dense=True)


def _transport() -> Optional[str]:
  """Returns what carries gradients; None for one process."""
  if hvd.size() == 1:
    return None
  if devices.has_gpu() and hvd.nccl_built():
    return "NCCL"
  return "MPI" if hvd.mpi_enabled() else "Gloo"


def main() -> None:
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
