#!/usr/bin/env bash
# Update constraints.txt: the newest versions allowed by pyproject.toml, of all direct and indirect dependencies, with the
# hashes of their files. Run it with the oldest supported Python (PYTHON=python3.11), so that the versions work with every
# newer one.
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
heading "Renewing constraints.txt"
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check --progress-bar off pip-tools
# The build system is in the file too: 'make setup' builds the project with it.
"$work/venv/bin/pip-compile" --quiet --generate-hashes --allow-unsafe --strip-extras --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
  --extra dev --extra envoy --extra etcd --build-deps-for editable --output-file "$work/compiled.txt" pyproject.toml
{
  echo "# Every version that 'make setup' installs, with the hashes of its files. Written by 'make lock'; not to be edited."
  cat "$work/compiled.txt"
} >"$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
note "$(grep -c == constraints.txt) versions; 'git diff constraints.txt' shows the changes; run 'make check test' to test them"
