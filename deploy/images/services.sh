#!/usr/bin/env bash
# Makes redis:7-alpine and memcached:1.6-alpine, the images that the example's devopsellence.yml names, unless they are
# there: built here, with Debian's Redis and memcached in them, so that no image registry is needed.
#
#   deploy/images/services.sh            build what is missing; what you have pulled yourself is used as it is
#   deploy/images/services.sh --pull     pull the official images instead (needs a registry)
#   deploy/images/services.sh --remove   remove these, the example's own and the one that all start from, if they were made
#                                        here and no container uses them; the names then mean the official images again
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/../lib.sh"
cd "$(dirname "$0")"

readonly NAMES=(redis:7-alpine memcached:1.6-alpine)

# What the label says of an image: "true" for one built here, empty for any other. Fails when the image is not there.
stand_in() {
  docker image inspect --format '{{index .Config.Labels "devopsellence.stand-in"}}' "$1" 2>/dev/null
}

build() {
  local name=$1 log
  if ! log=$(docker build --tag "$name" "${name%%:*}" 2>&1); then
    printf '%s\n' "$log" >&2
    fail "the image $name could not be built; the lines above say why"
  fi
  note "$name: built here, from Debian's ${name%%:*}"
}

provide() {
  local name=$1 built_here
  if built_here=$(stand_in "$name") && [ "$built_here" != true ]; then
    note "$name: the one that this engine has"
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
      docker pull "$name" || fail "$name could not be pulled; without --pull it is built here"
    done
    ;;
  --remove) remove ;;
  *) fail "$0 knows --pull and --remove, not '$1'" ;;
esac
