#!/usr/bin/env bash
# Build the base image of the example's three images: a small Debian with Python, Redis and memcached, from this machine's
# package sources, so that no image registry is needed. Takes about half a minute, once.
#
#   deploy/images/base.sh            build it if it is missing
#   deploy/images/base.sh --force    build it again (newer packages)
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/../lib.sh"

readonly IMAGE=devopsellence/base:latest
readonly PACKAGES=python3,python3-redis,python3-pymemcache,redis-server,memcached

# Print the machine's Debian sources, in any format and from any mirror, as one-line entries, without other vendors'.
sources() {
  # shellcheck disable=SC2016  # apt fills these in, not the shell
  apt-get indextargets --format '$(ORIGIN)|$(CODENAME)|$(SIGNED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' \
    'Created-By: Packages' 2>/dev/null | sort -u |
    while IFS='|' read -r origin codename signed_by uri release component; do
      [ "$origin" = Debian ] || continue
      case "$codename" in "$1" | "$1"-updates | "$1"-security) ;; *) continue ;; esac
      case "$signed_by" in
        /*) printf 'deb [signed-by=%s] %s %s %s\n' "$signed_by" "$uri" "$release" "$component" ;;
        *) printf 'deb %s %s %s\n' "$uri" "$release" "$component" ;;
      esac
    done
}

# Print the apt settings for the mirror: proxies, certificates, time-outs, clock checks.
apt_options() {
  apt-config dump | grep -E '^Acquire::((http|https|ftp)::|Retries|Check-|ForceIPv)' | grep -v ' "";$' || true
}

build() {
  local codename work
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && printf %s "${VERSION_CODENAME:-}")
  [ -n "$codename" ] || fail "/etc/os-release names no VERSION_CODENAME: the base image is made on Debian only"
  have mmdebstrap || fail "mmdebstrap is missing: run 'make setup'"
  work=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of this run, not of a later one
  trap "rm -rf '$work'" EXIT
  sources "$codename" >"$work/sources.list"
  apt_options >"$work/apt.conf"
  if [ ! -s "$work/sources.list" ]; then
    as_root apt-get update -qq
    sources "$codename" >"$work/sources.list"
  fi
  [ -s "$work/sources.list" ] || fail "no Debian '$codename' source in /etc/apt answers: see 'apt-get update'"
  as_root mmdebstrap --quiet --variant=minbase --include="$PACKAGES" \
    --aptopt="$work/apt.conf" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$codename" "$work/base.tar" "$work/sources.list" ||
    fail "mmdebstrap could not build a Debian '$codename': see its output above, and check that 'apt-get update' works"
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
