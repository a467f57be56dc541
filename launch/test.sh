#!/usr/bin/env bash
# The whole test suite in .venv, two files at a time. Usage: bash launch/test.sh [pytest arguments, such as -m "not long"]
extra=test
. "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS=1 NO_ALBUMENTATIONS_UPDATE=1
exec python -m pytest -n 2 --dist loadfile "$@"
