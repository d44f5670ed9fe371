#!/usr/bin/env bash
# Build redis:7-alpine and memcached:1.6-alpine, the images of the examples, if they are missing: with Debian's Redis and
# memcached, so that no image registry is needed.
#
#   deploy/images/services.sh            build missing images; images that you pulled are used unchanged
#   deploy/images/services.sh --pull     pull the official images instead (needs a registry)
#   deploy/images/services.sh --remove   remove the built images, the example's image and the base image, unless a container
#                                        uses them; the names then refer to the official images again
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/../lib.sh"
cd "$(dirname "$0")"

readonly NAMES=(redis:7-alpine memcached:1.6-alpine)

# Print "true" for an image built here, nothing for any other. Fail if the image does not exist.
stand_in() {
  docker image inspect --format '{{index .Config.Labels "devopsellence.stand-in"}}' "$1" 2>/dev/null
}

build() {
  local name=$1 log
  if ! log=$(docker build --tag "$name" "${name%%:*}" 2>&1); then
    printf '%s\n' "$log" >&2
    fail "the image $name could not be built: see the output above"
  fi
  note "$name: built from Debian's ${name%%:*}"
}

provide() {
  local name=$1 built_here
  if built_here=$(stand_in "$name") && [ "$built_here" != true ]; then
    note "$name: exists already"
  else
    build "$name"
  fi
}

remove() {
  local name
  # What starts from the base image inherits its label. The base sorts last, because the others are made of it.
  docker image ls --filter label=devopsellence.stand-in=true --filter reference='devopsellence/*shop-*' \
    --filter reference='registry.example.com/search' \
    --filter reference=devopsellence/base "${NAMES[@]/#/--filter=reference=}" --format '{{.Repository}}:{{.Tag}}' |
    sort -r | while read -r name; do
    if docker image rm "$name" >/dev/null 2>&1; then
      note "removed the image $name"
    else
      note "kept the image $name: a container uses it"
    fi
  done
}

case "${1:-}" in
  '')
    ./base.sh
    for name in "${NAMES[@]}"; do provide "$name"; done
    ;;
  --pull)
    ./base.sh
    for name in "${NAMES[@]}"; do
      docker pull "$name" || fail "$name could not be pulled: run this without --pull to build it"
    done
    ;;
  --remove) remove ;;
  *) fail "$0 takes '--pull' or '--remove', not '$1'" ;;
esac
