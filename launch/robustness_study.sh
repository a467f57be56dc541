#!/usr/bin/env bash
# Who withstands malicious members? Every rule of aggregation under attacks of 0, 3 and 6 of 15 phantom members: a table.
# Usage: bash launch/robustness_study.sh [--quick] [--seeds N] [--rounds N] [--out FOLDER]; goes on where it was interrupted.
. "$(dirname "$0")/environment.sh"
exec python "$(dirname "$0")/robustness_study.py" "$@"
