#!/usr/bin/env bash
# Which algorithm? All of them on drawn hospitals and on chest X-rays of seven sites, 20 rounds, three seeds: a table for each.
# Usage: bash launch/algorithm_study.sh [--quick] [--cxr-lungs DIR] [options of fedlit reproduce]
# It goes on where it was interrupted. --quick: two rounds at 64 px and one seed, in folders of their own.
. "$(dirname "$0")/environment.sh"
quick="" xrays=""
while :; do
  case "${1:-}" in
    --quick) quick=1; shift ;;
    --cxr-lungs) xrays=${2:?"$1 needs the folder that holds sites.csv"}; shift 2 ;;
    *) break ;;
  esac
done
study() { fedlit reproduce "$1" ${quick:+num_rounds=2 data.image_size=64 --seeds 1 --out "runs/$1_quick"} "${@:2}"; }
study algorithms_phantom "$@"
[ -z "$xrays" ] || study algorithms_cxr_lungs --data "$xrays" "$@"
