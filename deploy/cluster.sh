#!/usr/bin/env bash
# A cluster of several machines on this one, to play with: hosts with a Docker Engine and an agent each, a three-member
# etcd, two controllers, each in namespaces of its own. `make cluster` and `make cluster-down` run this after setup.
#
#   deploy/cluster.sh up [--hosts 5]   start it and deploy a small app; again: start what does not run
#   deploy/cluster.sh down             end and forget everything
#   deploy/cluster.sh cut n2           and join, kill, start, pause, resume, logs, enter, url, status, env
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

readonly FOLDER=${DEVOPSELLENCE_CLUSTER:-/var/lib/devopsellence/cluster}
readonly SELF=deploy/cluster.sh

# The environment is passed on for DOCKER_HOST and the like.
bed() { as_root env PATH="$PATH" "$PWD/.venv/bin/python" -m tests.support.cluster --folder "$FOLDER" "$@"; }

# in_app COMMAND…: runs devopsellence in the app's folder, and shows the command as one would type it.
in_app() {
  printf '%s$ devopsellence %s%s\n' "$bold" "$*" "$plain"
  bed app -- "$@"
}

what_next() {
  bed url | sed 's/^/   /'
  cat <<END
   In another terminal, as root and with .venv/bin on the PATH:
   eval "\$($SELF env)" && cd $FOLDER/app
   devopsellence status --watch                       what runs where
   sed -i 's/VERSION: .*/VERSION: "2"/' devopsellence.yml && devopsellence deploy
                                                      one host after another, and no request fails
   sed -i 's/VERSION: .*/VERSION: "broken"/' devopsellence.yml && devopsellence deploy
                                                      never healthy: it goes back by itself
   Here:
   $SELF cut n2              nobody reaches n2 any more; $SELF join n2
   $SELF kill c1             the other controller leads; $SELF start c1
   $SELF kill e1             etcd goes on with two members; $SELF start e1
   $SELF kill n1 --program agent, $SELF logs n1 -f, $SELF enter n1 docker ps
   $SELF status              who is there, who leads
   make cluster-down         end and forget it all
END
}

up() {
  heading "A cluster: hosts, a three-member etcd, two controllers, each with an address of its own"
  bed up "$@" || fail "the cluster is not complete; 'make cluster-down' clears it away, 'make cluster' tries again; logs are in $FOLDER/logs"
  heading "A small app on every host"
  in_app deploy
  in_app status
  heading "What to try next"
  what_next
}

[ -x .venv/bin/python ] || fail "there is no .venv here: run 'make setup'"
case "${1:-}" in
  up)
    shift
    up "$@"
    ;;
  down) bed down ;;
  '') fail "$SELF knows up, down and more: $SELF --help" ;;
  *) bed "$@" ;;
esac
