"""Tests of reading a process's rank and size from its launcher."""

import pytest

from util import launchers


@pytest.mark.parametrize("environment, launch, is_alone", [
    ({}, (0, 1, 0), True),
    ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4",
      "OMPI_COMM_WORLD_LOCAL_RANK": "1", "PMIX_RANK": "3"}, (3, 4, 1), False),
    ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}, (0, 2, 0), False),
    # mpirun -np 1.
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1",
      "PMIX_RANK": "0"}, (0, 1, 0), True),
    # The script of a batch job runs in one process.
    ({"SLURM_PROCID": "0"}, (0, 1, 0), True),
    ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2, 0), False),
    # PMIx sets no number of processes.
    ({"PMIX_RANK": "0"}, (0, 1, 0), False),
])
def test_a_process_finds_its_rank_and_size(environment, launch, is_alone):
  assert launchers.find(environment) == launch
  assert launchers.is_alone(environment) == is_alone


@pytest.mark.parametrize("environment, wanted", [
    ({}, 1), ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}, 1),
    ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 2),
    ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "9"}, 1),
    ({"SLURM_STEP_NUM_TASKS": "21", "SLURM_STEP_TASKS_PER_NODE": "4(x3),8,1"},
     8),
    ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, 2),
])
def test_processes_of_a_machine_are_counted(environment, wanted):
  assert launchers.local_size(environment) == wanted
