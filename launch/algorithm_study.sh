#!/usr/bin/env bash
# Which algorithm? All of them on chest X-rays of seven sites and on drawn hospitals, 20 rounds, three seeds: two tables.
# Usage: bash launch/algorithm_study.sh DATA [--quick] [options of fedlit reproduce]; goes on where it was interrupted.
# --quick: two rounds and one seed, in folders of their own.
. "$(dirname "$0")/environment.sh"
data=${1:?the folder of chest X-rays, with sites.csv}
shift
quick=""
if [ "${1:-}" = --quick ]; then quick=1; shift; fi
study() { fedlit reproduce "$1" ${quick:+num_rounds=2 --seeds 1 --out "runs/$1_quick"} "${@:2}"; }
study algorithms_cxr_lungs --data "$data" "$@"
study algorithms_phantom "$@"
