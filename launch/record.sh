#!/usr/bin/env bash
# What tables need of finished runs, and no more: configs, scores case by case, costs, versions; no weights, no pictures.
# Usage: bash launch/record.sh FOLDER_OF_RUNS...; writes launch/results/NAME.tar.xz, and its table beside it as NAME.md;
# `tar xf FILE -C runs` brings the runs back.
# Paths stand there as they were given, and names of cases as in the data: look at them before you hand the file on.
set -euo pipefail
results=$(cd "$(dirname "$0")" && pwd)/results
mkdir -p "$results"
for study in "$@"; do
  above=$(cd "$(dirname "$study")" && pwd) name=$(basename "$study")
  ended=$(cd "$above" && find "$name" -name summary.json -printf '%h\n' | sort)
  if [ -z "$ended" ]; then echo "error: no finished run in $study" >&2; exit 2; fi
  while read -r run; do
    for file in config.yaml provenance.json summary.json metrics.csv cases.csv patients.csv; do
      [ ! -e "$above/$run/$file" ] || printf '%s\0' "$run/$file"
    done
  done <<< "$ended" | tar --create --xz --directory "$above" --null --files-from=- --owner=0 --group=0 --numeric-owner --mtime=@0 \
    --file "$results/$name.tar.xz"
  [ ! -e "$study/table.md" ] || cp "$study/table.md" "$results/$name.md"
  echo "$results/$name.tar.xz: $(wc -l <<< "$ended") runs"
done
