#!/usr/bin/env bash
# Generate the Python code of the messages, beside the .proto files. The generated code is committed.
#
#   deploy/proto.sh            write the code
#   deploy/proto.sh --check    only check that the committed code is up to date
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

# Our own messages and services, and those of etcd that we call.
readonly PACKAGES=(devopsellence/api/v1 devopsellence/etcd/v3)
readonly SERVICES=(
  proto/devopsellence/api/v1/{agent,audit,certificates}.proto
  proto/devopsellence/etcd/v3/etcd.proto
)

generate() {
  # protoc finds the generator of the type stubs on PATH.
  local -x PATH="$PWD/.venv/bin:$PATH"
  local package
  for package in "${PACKAGES[@]}"; do
    python -m grpc_tools.protoc -Iproto --python_out="$1" --mypy_out="quiet:$1" proto/"$package"/*.proto
  done
  python -m grpc_tools.protoc -Iproto --grpc_python_out="$1" --mypy_grpc_out="quiet:$1" "${SERVICES[@]}"
}

check() {
  local fresh package
  fresh=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of this run
  trap "rm -rf '$fresh'" EXIT
  generate "$fresh"
  for package in "${PACKAGES[@]}"; do
    diff --unified=0 --recursive --exclude='*.proto' --exclude=__pycache__ "proto/$package" "$fresh/$package" ||
      fail "the generated code in proto/ is out of date: run 'make proto' and commit the result"
  done
}

case "${1:-}" in
  '') generate proto ;;
  --check) check ;;
  *) fail "$0 takes '--check', not '$1'" ;;
esac
