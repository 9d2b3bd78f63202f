"""What launchers such as mpirun tell the processes that they start."""

import re
from typing import Mapping, NamedTuple

from util.command_line import InputError

# Environment variables in which launchers tell a process its rank, how many
# processes there are, its rank on its machine and how many are there:
# horovodrun, mpirun, srun (not the batch script around it), and what else
# follows PMI or MVAPICH.
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
# Tells a rank without a size.
_RANK_WITHOUT_SIZE = "PMIX_RANK"


class Launch(NamedTuple):
  """This process among those that a launcher has started.

  Attributes:
    rank: from 0 to size - 1.
    size: how many there are.
    local_rank: this process among those of its machine.
  """
  rank: int = 0
  size: int = 1
  local_rank: int = 0


def find(environment: Mapping[str, str]) -> Launch:
  """Finds this process among those that a launcher has started.

  Args:
    environment: of this process.

  Raises:
    InputError: the launcher does not say how many there are.
  """
  for rank, size, local_rank, _ in _LAUNCHERS:
    if int(environment.get(size, 1)) > 1:
      return Launch(int(environment[rank]), int(environment[size]),
                    int(environment.get(local_rank, 0)))
  if int(environment.get(_RANK_WITHOUT_SIZE, 0)) > 0:
    raise InputError(
        "{}={} says that this is one of several processes, but nothing says of "
        "how many: start them with mpirun, horovodrun or srun".format(
            _RANK_WITHOUT_SIZE, environment[_RANK_WITHOUT_SIZE]))
  return Launch()


def local_size(environment: Mapping[str, str]) -> int:
  """Returns how many processes a launcher has started on this machine.

  Args:
    environment: of this process. Where it does not say, there is one.
  """
  for _, size, _, local in _LAUNCHERS:
    if int(environment.get(size, 1)) > 1:
      # Slurm lists all machines, such as 8(x2),4: the largest number is safe.
      counts = re.findall(r"(?<!x)\b\d+", environment.get(local, ""))
      return max(map(int, counts or ["1"]))
  return 1


def is_alone(environment: Mapping[str, str]) -> bool:
  """Says whether no launcher has started other processes beside this one.

  Args:
    environment: of this process.
  """
  sizes = [int(environment[size]) for _, size, _, _ in _LAUNCHERS
           if size in environment]
  return max(sizes, default=1) == 1 and (
      bool(sizes) or _RANK_WITHOUT_SIZE not in environment)
