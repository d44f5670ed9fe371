# Sourced by the scripts beside it: output functions and root access. Bash only.
# shellcheck shell=bash

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' blue=$'\e[34m' plain=$'\e[0m'
else
  bold='' blue='' plain=''
fi

heading() { printf '\n%s%s== %s%s\n' "$bold" "$blue" "$*" "$plain"; }

note() { printf '   %s\n' "$*"; }

warn() { printf '   warning: %s\n' "$*" >&2; }

# fail MESSAGE: print what happened and how to fix it, and exit.
fail() {
  printf '%serror:%s %s\n' "$bold" "$plain" "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# as_root COMMAND…: run the command as root, with sudo if necessary.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    fail "'$1' needs root, and sudo is not installed: run this command as root"
  fi
}

# The system's tools (dockerd, iptables, etcd) are in sbin, which is not on a normal user's PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
