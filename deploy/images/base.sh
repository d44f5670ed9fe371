#!/usr/bin/env bash
# Build the base image of the example's three images: a small Debian with Python, Redis and memcached, from this machine's
# package sources, so that no image registry is needed. Takes about half a minute, once.
#
#   deploy/images/base.sh            build it if it is missing
#   deploy/images/base.sh --force    build it again (newer packages)
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=deploy/images/debian.sh
. "$(dirname "$0")/debian.sh"

readonly IMAGE=devopsellence/base:latest
readonly PACKAGES=python3,python3-redis,python3-pymemcache,redis-server,memcached

build() {
  local work
  work=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of this run, not of a later one
  trap "rm -rf '$work'" EXIT
  debian "$PACKAGES" "$work/base.tar" "$work"
  docker import --change 'LABEL devopsellence.stand-in=true' --change 'ENV PYTHONUNBUFFERED=1 LANG=C.UTF-8' \
    "$work/base.tar" "$IMAGE" >/dev/null
}

if [ "${1:-}" != --force ] && docker image inspect "$IMAGE" >/dev/null 2>&1; then
  note "$IMAGE exists (deploy/images/base.sh --force builds it again)"
  exit 0
fi
note "building $IMAGE from this machine's Debian packages (about half a minute)"
build
note "$IMAGE is ready: $(docker image inspect --format '{{.Size}}' "$IMAGE" | awk '{printf "%.0f MB", $1 / 1e6}')"
