#!/usr/bin/env bash
# Update constraints.txt: the newest versions allowed by pyproject.toml, of all direct and indirect dependencies. Run it
# with the oldest supported Python (PYTHON=python3.11), so that the versions work with every newer one.
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
heading "Renewing constraints.txt"
"${PYTHON:-python3}" -m venv "$work/venv"
mapfile -t build_requires < <("$work/venv/bin/python" -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")')
"$work/venv/bin/pip" install -qq --disable-pip-version-check --progress-bar off \
  "${build_requires[@]}" --editable '.[dev,envoy,etcd]'
{
  echo "# Every version that 'make setup' installs. Written by 'make lock'; not to be edited."
  "$work/venv/bin/pip" freeze --all --exclude pip --exclude devopsellence --exclude-editable
} >"$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
note "$(grep -c == constraints.txt) versions; 'git diff constraints.txt' shows the changes; run 'make check test' to test them"
