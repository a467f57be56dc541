#!/usr/bin/env bash
# From nothing to a report: installs into .venv, trains on the embedded federation. Usage: bash launch/quickstart.sh [key=value ...]
extra=
. "$(dirname "$0")/environment.sh"
exec fedlit run configs/quickstart.yaml "$@"
