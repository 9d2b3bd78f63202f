#!/usr/bin/env bash
# Sets up what is missing and runs the tests, all of them in several processes;
# arguments go to pytest.
#
#   ./run_tests.sh
#   ./run_tests.sh tests/records -k manifest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./setup.sh
if [ $# -eq 0 ]; then
  # Each file's tests stay together, as they share what they prepare.
  set -- tests -n auto --maxprocesses 4 --dist loadfile --durations 25
fi
exec .venv/bin/python -m pytest "$@"
