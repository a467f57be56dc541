#!/usr/bin/env bash
# Which model for a hospital that took no part? Every site left out in turn: one table for each data set.
# Usage: bash launch/unseen_site_study.sh [--cxr-lungs DIR] [--retina-vessels DIR] [--quick] [--seeds N] [--out FOLDER]
# It goes on where it was interrupted.
. "$(dirname "$0")/environment.sh"
exec python "$(dirname "$0")/unseen_site_study.py" "$@"
