#!/usr/bin/env bash
# Runs setup.sh, and then the tests in several processes.
#
#   ./run_tests.sh          # the quick tests
#   ./run_tests.sh --all    # all tests, the slow ones included, as CI does
#   ./run_tests.sh tests/records -k manifest   # other arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./setup.sh
# worksteal: idle processes take over waiting tests, and adjacent tests, which
# share fixtures, mostly stay in one process.
readonly PARALLEL=(tests -n auto --maxprocesses 4 --dist worksteal
                   --durations 10)
case "${1:-}" in
  '') set -- "${PARALLEL[@]}" -m 'not slow' ;;
  --all) shift; set -- "${PARALLEL[@]}" "$@" ;;
esac
exec .venv/bin/python -m pytest "$@"
