#!/usr/bin/env bash
# The tests in .venv, three files at a time. Usage: bash launch/test.sh [--long] [pytest arguments]; --long: also the longest.
extra=test
. "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS=1 NO_ALBUMENTATIONS_UPDATE=1
unset PYTHONDONTWRITEBYTECODE # the suite starts some hundred processes, and each would compile fedlit again
chosen=(-m "not long")
if [ "${1:-}" = --long ]; then chosen=() && shift; fi
exec python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "${chosen[@]}" "$@"
