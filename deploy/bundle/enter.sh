#!/bin/sh
# Run a program of this bundle on its machine, as root, with the machine's network, /run and folders:
#
#   /opt/devopsellence/VERSION/enter.sh devopsellence-agent --version
#
# The units do not use it; systemd does the same for them. Needs sh, mount, unshare and chroot, which every Linux has.
set -eu

root=$(dirname "$(readlink -f "$0")")
if [ $# -eq 0 ]; then
  echo "usage: $0 PROGRAM [ARGUMENT…]" >&2
  exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "error: $0 needs root: run it with sudo" >&2
  exit 1
fi

# A mount namespace of its own: all mounts end with the program.
# shellcheck disable=SC2016  # the inner shell fills them in
exec unshare --mount --propagation slave sh -c '
  set -eu
  root=$1
  here=$PWD
  shift
  # `devopsellence-agent join` creates the folder, which has to be there for its mount.
  [ "$1" != devopsellence-agent ] || mkdir -p /etc/devopsellence
  while read -r folder; do
    case "$folder" in
      /host/etc) mount --rbind /etc "$root$folder" ;;
      /var/lib/docker) ;;
      *) [ ! -d "$folder" ] || mount --rbind "$folder" "$root$folder" ;;
    esac
  done <"$root/usr/lib/devopsellence/mount-points"
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  # As env -C, where the folder is visible in the tree.
  if [ -d "$root$here" ]; then
    exec chroot "$root" /usr/bin/env -C "$here" -- "$@"
  fi
  exec chroot "$root" /usr/bin/env -- "$@"
' enter "$root" "$@"
