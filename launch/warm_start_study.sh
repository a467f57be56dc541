#!/usr/bin/env bash
# Where to begin? Every start, then federated rounds, on chest X-rays and on the phantom: a table and a plot.
# Usage: bash launch/warm_start_study.sh DATA_ROOT [--quick] [--seeds N] [--out FOLDER]; goes on where it was interrupted.
. "$(dirname "$0")/environment.sh"
exec python "$(dirname "$0")/warm_start_study.py" "$@"
