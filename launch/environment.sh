# Sourced by the other scripts: make .venv beside the project once, install fedlit into it, and put it first in PATH.
# Usage: extra=test; . launch/environment.sh   (extra is optional; not an argument: a sourced file sees its caller's)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=""
for candidate in python3.13 python3.12 python3.11 python3; do
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then echo "fedlit needs Python 3.11, 3.12 or 3.13; none was found in PATH" >&2; exit 2; fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
stamp=.venv/fedlit-installed-${extra:-plain}
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  echo "installing fedlit into .venv (PyTorch is several hundred MB to a few GB; this happens once)"
  .venv/bin/python -m pip install --quiet --editable ".${extra:+[$extra]}"
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
