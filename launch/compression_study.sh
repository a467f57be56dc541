#!/usr/bin/env bash
# What does it cost to send less? Test Dice against the bytes that members send, for every compression: a table.
# Usage: bash launch/compression_study.sh [--quick] [--seeds N] [--rounds N] [--out FOLDER]; goes on where it was interrupted.
. "$(dirname "$0")/environment.sh"
exec python "$(dirname "$0")/compression_study.py" "$@"
