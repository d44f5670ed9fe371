# Sourced by the scripts beside it: how they speak, and how they become root. Bash only.
# shellcheck shell=bash

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' blue=$'\e[34m' plain=$'\e[0m'
else
  bold='' blue='' plain=''
fi

heading() { printf '\n%s%s== %s%s\n' "$bold" "$blue" "$*" "$plain"; }

note() { printf '   %s\n' "$*"; }

warn() { printf '   warning: %s\n' "$*" >&2; }

# fail WHAT HAPPENED AND WHAT TO DO
fail() {
  printf '%serror:%s %s\n' "$bold" "$plain" "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# as_root COMMAND…: runs it as root, through sudo where need be.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    fail "'$1' needs root, and there is no sudo here: run this again as root"
  fi
}

# The system's tools (dockerd, iptables, etcd) stand in sbin, which a plain user's PATH leaves out.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
