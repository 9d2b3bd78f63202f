#!/usr/bin/env bash
# Sets up what is missing and runs the tests in several processes.
#
#   ./run_tests.sh          # the quick tests
#   ./run_tests.sh --all    # these and the slow ones, as CI does
#   ./run_tests.sh tests/records -k manifest   # other arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./setup.sh
# Idle processes take over tests that wait; neighbours share what they prepare.
readonly PARALLEL=(tests -n auto --maxprocesses 4 --dist worksteal
                   --durations 10)
case "${1:-}" in
  '') set -- "${PARALLEL[@]}" -m 'not slow' ;;
  --all) shift; set -- "${PARALLEL[@]}" "$@" ;;
esac
exec .venv/bin/python -m pytest "$@"
