#!/usr/bin/env bash
# examples/pipeline.sh on a cluster with Slurm: stages IV and V on all nodes,
# those before on the first one.
#
#   DUMP=/shared/enwiki.xml.bz2 WORK=/shared/work \
#     sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --time=24:00:00 \
#     --signal=TERM@120 examples/slurm.sh
#
# To be submitted from this folder, which all nodes must see, as WORK. A job that
# reaches its time limit saves 120 seconds before; submitted again, it goes on.
#
# Tried: examples/pipeline.sh, also with another LAUNCHER than its own. Not
# tried: this file under Slurm, which we have not.
set -euo pipefail

# Of `srun --mpi=list`.
readonly MPI=${MPI:-pmix}
export PROCESSES=${SLURM_NTASKS:?not within a job of Slurm}
export LAUNCHER="srun --mpi=$MPI --kill-on-bad-exit=1"
export PRECISION=${PRECISION:-fp16}
exec examples/pipeline.sh
