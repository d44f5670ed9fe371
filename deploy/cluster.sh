#!/usr/bin/env bash
# A test cluster on one machine: hosts with a Docker Engine and an agent each, a three-member etcd, two controllers, each in
# its own namespaces. `make cluster` and `make cluster-down` run this after setup.
#
#   deploy/cluster.sh up [--hosts 5]   start it and deploy a small app; again: start what is not running
#   deploy/cluster.sh down             stop and remove everything
#   deploy/cluster.sh cut n2           also join, kill, start, pause, resume, logs, enter, url, status, env
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

readonly FOLDER=${DEVOPSELLENCE_CLUSTER:-/var/lib/devopsellence/cluster}
readonly SELF=deploy/cluster.sh

# The environment is passed on for DOCKER_HOST and the like.
bed() { as_root env PATH="$PATH" "$PWD/.venv/bin/python" -m tests.support.cluster --folder "$FOLDER" "$@"; }

# in_app COMMAND…: print the command as a user would type it, and run devopsellence in the app's folder.
in_app() {
  printf '%s$ devopsellence %s%s\n' "$bold" "$*" "$plain"
  bed app -- "$@"
}

what_next() {
  bed url | sed 's/^/   /'
  cat <<END
   In another terminal, as root and with .venv/bin on the PATH:
   eval "\$($SELF env)" && cd $FOLDER/app
   devopsellence status --watch                       show the rollout live
   sed -i 's/VERSION: .*/VERSION: "2"/' devopsellence.yml && devopsellence deploy
                                                      updates one host after another; no request fails
   sed -i 's/VERSION: .*/VERSION: "broken"/' devopsellence.yml && devopsellence deploy
                                                      never healthy: rolls back automatically
   Here:
   $SELF cut n2              disconnect n2; $SELF join n2 reconnects it
   $SELF kill c1             the other controller leads; $SELF start c1
   $SELF kill e1             etcd continues with two members; $SELF start e1
   $SELF kill n1 --program agent, $SELF logs n1 -f, $SELF enter n1 docker ps
   $SELF status              show what runs, and who leads
   make cluster-down         stop and remove everything
END
}

up() {
  heading "Starting hosts, a three-member etcd and two controllers"
  bed up "$@" || fail "the cluster is incomplete: 'make cluster' tries again, 'make cluster-down' removes it; logs are in $FOLDER/logs"
  heading "Deploying a small app to every host"
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
  '') fail "$SELF needs a command: $SELF --help" ;;
  *) bed "$@" ;;
esac
