#!/bin/sh
# The official image's rule: options alone mean memcached.
set -eu

case "${1:-}" in
  -*) set -- memcached "$@" ;;
esac
exec "$@"
