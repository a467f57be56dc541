#!/usr/bin/env bash
# Which algorithm? All of them on chest X-rays of seven sites and on drawn hospitals, 20 rounds, three seeds: two tables.
# Usage: bash launch/algorithm_study.sh DATA [--quick] [options of fedlit reproduce]; goes on where it was interrupted.
# --quick: chest X-rays and one seed.
. "$(dirname "$0")/environment.sh"
data=${1:?the folder of chest X-rays, with sites.csv}
shift
quick=""
if [ "${1:-}" = --quick ]; then quick=1; shift; fi
fedlit reproduce algorithms_cxr_lungs --data "$data" ${quick:+--seeds 1} "$@"
[ -n "$quick" ] || fedlit reproduce algorithms_phantom "$@"
