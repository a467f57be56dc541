#!/usr/bin/env bash
# Which model for a hospital that took no part? Every site left out in turn, three seeds: a table for each data set.
# Usage: bash launch/unseen_site_study.sh [--quick] [--cxr-lungs DIR] [--retina-vessels DIR] [options of fedlit reproduce]
#        bash launch/unseen_site_study.sh --parts [options]: which part of routing does what, at drawn hospitals.
# It goes on where it was interrupted. --quick: few rounds, one seed, two sites of each set and short trials, in folders of their own.
. "$(dirname "$0")/environment.sh"
if [ "${1:-}" = --parts ]; then exec fedlit reproduce routing_parts "${@:2}"; fi
quick=""
declare -A data=()
while :; do
  case "${1:-}" in
    --quick) quick=1; shift ;;
    --cxr-lungs | --retina-vessels) data[${1#--}]=${2:?"$1 needs the folder that holds sites.csv"}; shift 2 ;;
    *) break ;;
  esac
done
trial=prediction.chosen.candidates.routing.adaptation.max_steps
rounds=3
study() { fedlit reproduce "$1" ${quick:+num_rounds=$rounds "$trial=8" --seeds 1 --out "runs/$1_quick"} "${@:2}"; }
study unseen_phantom ${quick:+--folds children,icu} "$@"
[ -z "${data[cxr-lungs]:-}" ] || study unseen_cxr_lungs --data "${data[cxr-lungs]}" ${quick:+--folds covid_asia,jsrt} "$@"
rounds=8 # before that no vessel is found
[ -z "${data[retina-vessels]:-}" ] || study unseen_retina_vessels --data "${data[retina-vessels]}" ${quick:+--folds chase,stare} "$@"
