#!/usr/bin/env bash
# The whole test suite in .venv, three files at a time. Usage: bash launch/test.sh [pytest arguments, such as -m "not long"]
extra=test
. "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS=1 NO_ALBUMENTATIONS_UPDATE=1
unset PYTHONDONTWRITEBYTECODE # the suite starts some hundred processes, and each would compile fedlit again
exec python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
