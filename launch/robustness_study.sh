#!/usr/bin/env bash
# Who withstands malicious members? Every rule of aggregation under attacks of 0, 3 and 6 of 15 phantom members: a table.
# Usage: bash launch/robustness_study.sh [--quick] [options of fedlit reproduce]; goes on where it was interrupted.
# --quick: sign flips alone, a quarter of the pictures, five rounds and one seed, in a folder of its own.
# A rule that does not withstand may fail, by a loss that is not finite: its cell reads `failed`, the exit code is 1.
. "$(dirname "$0")/environment.sh"
quick=()
if [ "${1:-}" = --quick ]; then
  quick=(data.scale=0.25 num_rounds=5 --seeds 1 --out runs/robustness_quick)
  quick+=(--columns "none,sign flip by 3,sign flip by 6")
  shift
fi
exec fedlit reproduce robustness "${quick[@]}" "$@"
