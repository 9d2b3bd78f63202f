"""Reads rank and size of a process from its launcher, such as mpirun."""

import re
from typing import Mapping, NamedTuple

from util.command_line import InputError

# Environment variables with the rank, size, local rank and local size of a
# process, by launcher: horovodrun, mpirun, srun (but not the batch script
# around srun), MVAPICH, and other launchers that follow PMI.
_LAUNCHERS = (
    ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK",
     "HOROVOD_LOCAL_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID",
     "SLURM_STEP_TASKS_PER_NODE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE",
     "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"))
# Set by launchers that follow PMIx, which set no size.
_RANK_WITHOUT_SIZE = "PMIX_RANK"


class Launch(NamedTuple):
  """The rank of this process among the processes of its launcher.

  Attributes:
    rank: rank of this process, from 0 to size - 1.
    size: number of processes.
    local_rank: rank among the processes on the same machine.
  """
  rank: int = 0
  size: int = 1
  local_rank: int = 0


def find(environment: Mapping[str, str]) -> Launch:
  """Reads the rank and size of this process from its environment.

  Args:
    environment: environment variables of this process.

  Raises:
    InputError: if the launcher sets a rank but no size.
  """
  for rank, size, local_rank, _ in _LAUNCHERS:
    if int(environment.get(size, 1)) > 1:
      return Launch(int(environment[rank]), int(environment[size]),
                    int(environment.get(local_rank, 0)))
  if int(environment.get(_RANK_WITHOUT_SIZE, 0)) > 0:
    raise InputError(
        "{}={} shows that this is one of several processes, but no environment "
        "variable gives their number; start the processes with mpirun, "
        "horovodrun or srun".format(
            _RANK_WITHOUT_SIZE, environment[_RANK_WITHOUT_SIZE]))
  return Launch()


def local_size(environment: Mapping[str, str]) -> int:
  """Returns how many processes the launcher has started on this machine.

  Args:
    environment: environment variables of this process. The number is 1 if they
      do not give it.
  """
  for _, size, _, local in _LAUNCHERS:
    if int(environment.get(size, 1)) > 1:
      # Slurm lists the numbers of all machines, such as 8(x2),4. The largest
      # number is safe.
      counts = re.findall(r"(?<!x)\b\d+", environment.get(local, ""))
      return max(map(int, counts or ["1"]))
  return 1


def is_alone(environment: Mapping[str, str]) -> bool:
  """Returns whether this process is the only one of its launcher, if any.

  Args:
    environment: environment variables of this process.
  """
  sizes = [int(environment[size]) for _, size, _, _ in _LAUNCHERS
           if size in environment]
  return max(sizes, default=1) == 1 and (
      bool(sizes) or _RANK_WITHOUT_SIZE not in environment)
