#!/usr/bin/env bash
# Which model for a hospital that took no part? Every site left out in turn, three seeds: a table for each data set.
# Usage: bash launch/unseen_site_study.sh [--cxr-lungs DIR] [--retina-vessels DIR] [options of fedlit reproduce]
# It goes on where it was interrupted; --seeds 1 is the quick form.
. "$(dirname "$0")/environment.sh"
declare -A data=()
while [ "${1:-}" = --cxr-lungs ] || [ "${1:-}" = --retina-vessels ]; do
  data[${1#--}]=${2:?"$1 needs the folder that holds sites.csv"}
  shift 2
done
fedlit reproduce unseen_phantom "$@"
[ -z "${data[cxr-lungs]:-}" ] || fedlit reproduce unseen_cxr_lungs --data "${data[cxr-lungs]}" "$@"
[ -z "${data[retina-vessels]:-}" ] || fedlit reproduce unseen_retina_vessels --data "${data[retina-vessels]}" "$@"
