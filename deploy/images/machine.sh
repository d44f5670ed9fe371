#!/usr/bin/env bash
# Build the file system of a whole machine for tests: a Debian with systemd, sshd, a Docker Engine, etcd and Python, from
# this machine's package sources. Takes about a minute and a half. The folder must not exist.
#
#   deploy/images/machine.sh FOLDER
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=deploy/images/debian.sh
. "$(dirname "$0")/debian.sh"

readonly PACKAGES=systemd,systemd-sysv,dbus,openssh-server,sudo,procps,iproute2,iptables,ca-certificates,docker.io,etcd-server,etcd-client,python3,python3-venv

readonly FOLDER=${1:?deploy/images/machine.sh FOLDER}
[ ! -e "$FOLDER" ] || fail "$FOLDER exists"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
note "building $FOLDER from this machine's Debian packages (about a minute and a half)"
debian "$PACKAGES" "$FOLDER" "$work"
