#!/usr/bin/env bash
# Sets up what is missing and runs the tests; arguments go to pytest.
#
#   ./run_tests.sh
#   ./run_tests.sh tests/records -k manifest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./setup.sh
exec .venv/bin/python -m pytest "${@:-tests}"
