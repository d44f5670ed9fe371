#!/usr/bin/env bash
# Start and stop the demo: images, local cluster, example app, page. `make demo` and `make demo-down` run this after setup.
#
#   deploy/demo.sh up              start everything and show the page. UPSTREAM=1 pulls the official Redis and memcached
#   deploy/demo.sh down            stop the cluster and its containers; volumes and releases stay for the next `up`
#   deploy/demo.sh down --purge    remove those too, and the built images; stop a dockerd that setup started
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

readonly APP=examples/shop
readonly HOST=shop.localhost
readonly DEVOPSELLENCE=$PWD/.venv/bin/devopsellence

# run COMMAND…: print the command as a user would type it, then run it in the example's folder.
run() {
  printf '%s$ %s%s\n' "$bold" "$*" "$plain"
  (cd "$APP" && PATH="$PWD/../../.venv/bin:$PATH" "$@")
}

# Print the HTTP port of the ingress.
port() {
  local DEVOPSELLENCE_HTTP_PORT=
  eval "$("$DEVOPSELLENCE" dev env)"
  printf '%s' "$DEVOPSELLENCE_HTTP_PORT"
}

# Fetch the page's JSON; curl retries for a while, because Redis may still be starting.
fetch() {
  curl -fsS --noproxy '*' --retry 30 --retry-delay 1 --retry-max-time 30 --retry-connrefused \
    -H "Host: $HOST" "http://127.0.0.1:$1/?format=json"
}

# Summarize the page's JSON on stdin as "<visits> <offer>".
in_words() {
  .venv/bin/python -c '
import json, sys
page = json.load(sys.stdin)
offer = page["offer"]
source = "from memcached" if offer["from_cache"] else "calculated, and now in memcached"
print(page["visits"], "{percent} % off {product}: ".format(**offer) + source)'
}

show_page() {
  local first second offer
  note "curl -H 'Host: $HOST' http://127.0.0.1:$1/"
  read -r first offer < <(fetch "$1" | in_words) ||
    fail "the page does not answer through Envoy on port $1: see 'devopsellence ingress check' and 'devopsellence status' in $APP"
  note "visit $first, counted in Redis; $offer"
  read -r second offer < <(fetch "$1" | in_words) ||
    fail "the page on port $1 answered only once: see 'devopsellence status' in $APP"
  note "visit $second, counted in Redis; $offer"
  [ "$second" -gt "$first" ] || fail "the counter did not rise: is Redis what answers at redis:6379?"
}

what_next() {
  cat <<END
   http://$HOST:$1/           the page, in a browser on this machine
   source .venv/bin/activate && cd $APP
   devopsellence status                  show release and service status
   devopsellence events                  show who deployed, and what happened
   docker rm -f \$(docker ps -q --filter label=devopsellence.environment=acme/shop/production --filter label=devopsellence.service=redis)
   devopsellence status --watch          Redis is back and keeps counting: its data is on a volume
   eval "\$(devopsellence dev env)" && etcdctl get --prefix /devopsellence/v1/
                                         show everything in etcd
   sed -i 's/^VERSION = .*/VERSION = "2"/' app.py && devopsellence deploy
                                         replaces only web, and no request fails: Envoy sends new requests to the
                                         new container, and the old one stops after its last request
   make demo-down                        in the project's folder: stop everything; PURGE=1 also removes the data
END
}

up() {
  heading "Images"
  ./deploy/images/services.sh ${UPSTREAM:+--pull}
  heading "A local cluster: etcd, controller and agent, in the background"
  run devopsellence dev up
  heading "Deploy $APP: a web app, a Redis, a memcached"
  run devopsellence deploy
  run devopsellence status --watch
  heading "The page, through Envoy"
  local port
  port=$(port)
  show_page "$port"
  heading "What to try next"
  what_next "$port"
}

# Remove the Envoy image built by the agent, unless a container uses it.
remove_envoy() {
  docker image ls --format '{{.Repository}}:{{.Tag}}' devopsellence/envoy | while read -r name; do
    if docker image rm "$name" >/dev/null 2>&1; then note "removed the image $name"; fi
  done
}

down() {
  if [ -x "$DEVOPSELLENCE" ]; then
    heading "Stopping the local cluster"
    if [ "${1:-}" = --purge ]; then
      run devopsellence dev down --purge --yes
    else
      run devopsellence dev down
    fi
  fi
  if [ "${1:-}" = --purge ]; then
    if docker version >/dev/null 2>&1; then
      ./deploy/images/services.sh --remove
      remove_envoy
    fi
    ./deploy/docker.sh stop
  fi
}

case "${1:-}" in
  up) up ;;
  down) down "${2:-}" ;;
  *) fail "$0 takes 'up' or 'down', not '${1:-}'" ;;
esac
