#!/usr/bin/env bash
# What does it cost to send less? Test Dice against the bytes that members send, for every compression: a table.
# Usage: bash launch/compression_study.sh [--quick] [options of fedlit reproduce]; goes on where it was interrupted.
# --quick: a quarter of the pictures, five rounds and one seed, in a folder of its own.
. "$(dirname "$0")/environment.sh"
quick=()
if [ "${1:-}" = --quick ]; then
  quick=(data.scale=0.25 num_rounds=5 --seeds 1 --out runs/compression_quick)
  shift
fi
exec fedlit reproduce compression "${quick[@]}" "$@"
