#!/usr/bin/env bash
# Writes requirements/dev.txt: the exact versions of all that the extra `dev` needs.
# Versions that are pinned already stay; for newer ones, delete their lines first.
set -euo pipefail
cd "$(dirname "$0")/.."
pins=requirements/dev.txt
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

"${PYTHON:-python3.11}" -m venv "$fresh/venv"
[ -e "$pins" ] || touch "$pins"
"$fresh/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$pins" ".[dev]"
{
  echo "# Exact versions for development and CI; written by requirements/pin.sh (make pins)."
  "$fresh/venv/bin/python" -m pip freeze --all | grep -viE '^(oto[_-]jax|pip)( |=)'
} > "$fresh/dev.txt"
mv "$fresh/dev.txt" "$pins"
echo "wrote $pins: $(grep -c == "$pins") packages"
