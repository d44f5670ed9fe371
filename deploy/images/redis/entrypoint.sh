#!/bin/sh
# The official image's rules: options or a file alone mean redis-server; the server runs as the user redis; other
# containers may connect (the official build has protected mode off, because a container's port is private to its network).
set -eu

case "${1:-}" in
  -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "${1:-}" != redis-server ]; then
  exec "$@"
fi
case " $* " in
  *" --protected-mode "*) ;;
  *) set -- "$@" --protected-mode no ;;
esac
if [ "$(id -u)" -eq 0 ]; then
  find . \! -user redis -exec chown redis:redis {} +
  exec setpriv --reuid=redis --regid=redis --clear-groups "$@"
fi
exec "$@"
