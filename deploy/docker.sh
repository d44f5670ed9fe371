#!/usr/bin/env bash
# Sees to it that a Docker Engine answers.
#
#   deploy/docker.sh start    does nothing when one answers; else has the init system start it; where there is none (as in
#                             many containers and CI machines) starts dockerd itself, in the background
#   deploy/docker.sh stop     stops a dockerd that `start` has started itself, and no other
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/lib.sh"

readonly STATE=/var/lib/devopsellence/dockerd # holds dockerd's process id with its start time, and its log
readonly PID_FILE=$STATE/started
readonly LOG=$STATE/dockerd.log
readonly SECONDS_TO_START=60
readonly SECONDS_TO_STOP=30

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# When the process with this id started, in clock ticks since boot: with the id it names one process for good. Nothing for
# one that has ended, also while it still waits for a parent to take note (state Z), for ever where no init system runs.
start_time() { sed -n 's/.*) \([^ZX] .*\)/\1/p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# The id of the dockerd that we started; fails when there is none (any more).
our_dockerd() {
  local pid ticks
  read -r pid ticks 2>/dev/null <"$PID_FILE" || return 1
  [ -n "$ticks" ] && [ "$(start_time "$pid")" = "$ticks" ] && printf '%s' "$pid"
}

# wait_until SECONDS COMMAND…: fails when the command has not succeeded in that time.
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}

start_by_init_system() {
  if [ -d /run/systemd/system ]; then
    note "starting Docker with systemd"
    as_root systemctl start docker
  elif [ "$(cat /proc/1/comm)" = init ] && [ -x /etc/init.d/docker ]; then
    note "starting Docker with its init script"
    as_root service docker start
  else
    return 1
  fi || fail "Docker's service did not start: see 'journalctl -u docker' or /var/log/docker.log"
}

# In a session of its own and with no descriptor of ours, so that it outlives this script and nobody waits for it.
start_ourselves() {
  have dockerd || fail "dockerd is missing: run 'make setup', which installs docker.io"
  note "nothing starts services here: starting dockerd in the background, log in $LOG"
  # shellcheck disable=SC2016  # expanded by the inner shell
  as_root bash -c '
    set -eu
    mkdir -p "$1"
    setsid dockerd >"$2" 2>&1 </dev/null &
    pid=$!
    printf "%s %s\n" "$pid" "$(sed "s/.*) //" "/proc/$pid/stat" 2>/dev/null | cut -d" " -f20)" >"$3"
  ' dockerd "$STATE" "$LOG" "$PID_FILE"
}

# Docker answers us, or root and not us: then waiting longer is of no use.
answers_somebody() { answers || { [ "$(id -u)" -ne 0 ] && as_root docker version >/dev/null 2>&1; }; }

# The same, or nothing of ours is left to wait for.
answers_or_ended() { answers_somebody || ! our_dockerd >/dev/null; }

why_not() {
  if as_root docker version >/dev/null 2>&1; then
    fail "Docker answers root but not $(id -un): run 'sudo usermod -aG docker $(id -un)', log in again, repeat the command"
  fi
  fail "no Docker Engine answers at ${DOCKER_HOST:-unix:///var/run/docker.sock}$([ ! -s "$LOG" ] || printf '; the end of %s: %s' "$LOG" "$(tail -n 3 "$LOG")")"
}

start() {
  if answers; then
    return
  fi
  [ -z "${DOCKER_HOST:-}" ] || fail "nothing answers at DOCKER_HOST=$DOCKER_HOST: start that engine, or unset DOCKER_HOST to use one here"
  if answers_somebody; then
    why_not
  elif start_by_init_system; then
    wait_until "$SECONDS_TO_START" answers_somebody || why_not
  else
    our_dockerd >/dev/null || start_ourselves
    wait_until "$SECONDS_TO_START" answers_or_ended || why_not
  fi
  answers || why_not
  note "Docker $(docker version --format '{{.Server.Version}}') answers"
}

ended() { ! our_dockerd >/dev/null; }

stop() {
  local pid
  if ! pid=$(our_dockerd); then
    return
  fi
  note "stopping the dockerd that 'make setup' started (process $pid)"
  as_root kill "$pid"
  wait_until "$SECONDS_TO_STOP" ended || fail "dockerd (process $pid) does not stop; see $LOG"
  as_root rm -f "$PID_FILE"
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  *) fail "$0 knows start and stop, not '${1:-}'" ;;
esac
