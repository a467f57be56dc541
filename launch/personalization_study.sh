#!/usr/bin/env bash
# What does a model of one's own bring? FedAvg, FedBN, fine-tuning, Ditto, IOP-FL and all data in one place, on chest X-rays.
# Usage: bash launch/personalization_study.sh DATA_ROOT [--quick] [--resplits N] [--seeds N] [--only RUNS] [--out FOLDER]; goes on where it was interrupted.
. "$(dirname "$0")/environment.sh"
exec python "$(dirname "$0")/personalization_study.py" "$@"
