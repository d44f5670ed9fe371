#!/usr/bin/env bash
# Start a Docker Engine if none is running, and stop it again.
#
#   deploy/docker.sh start    do nothing if an engine answers; else start it with the init system, or without one (as in
#                             many containers and CI machines) start dockerd in the background
#   deploy/docker.sh stop     stop a dockerd that `start` started itself, and no other
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/lib.sh"

readonly STATE=/var/lib/devopsellence/dockerd # holds dockerd's process id with its start time, and its log
readonly PID_FILE=$STATE/started
readonly LOG=$STATE/dockerd.log
readonly SECONDS_TO_START=60
readonly SECONDS_TO_STOP=30

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# Print the start time of a process in clock ticks since boot: id and start time together identify a process. Nothing for
# an exited process, also while it is a zombie (state Z), which is for ever where no init system runs.
start_time() { sed -n 's/.*) \([^ZX] .*\)/\1/p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# Print the process id of the dockerd started by this script; fail if there is none.
our_dockerd() {
  local pid ticks
  read -r pid ticks 2>/dev/null <"$PID_FILE" || return 1
  [ -n "$ticks" ] && [ "$(start_time "$pid")" = "$ticks" ] && printf '%s' "$pid"
}

# wait_until SECONDS COMMAND…: fail if the command has not succeeded within that time.
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

# A new session without inherited descriptors, so that dockerd outlives this script and nothing waits for it.
start_ourselves() {
  have dockerd || fail "dockerd is missing: run 'make setup', which installs docker.io"
  note "no init system: starting dockerd in the background, log in $LOG"
  # shellcheck disable=SC2016  # expanded by the inner shell
  as_root bash -c '
    set -eu
    mkdir -p "$1"
    setsid dockerd >"$2" 2>&1 </dev/null &
    pid=$!
    printf "%s %s\n" "$pid" "$(sed "s/.*) //" "/proc/$pid/stat" 2>/dev/null | cut -d" " -f20)" >"$3"
  ' dockerd "$STATE" "$LOG" "$PID_FILE"
}

# Docker answers this user, or only root: then waiting longer does not help.
answers_somebody() { answers || { [ "$(id -u)" -ne 0 ] && as_root docker version >/dev/null 2>&1; }; }

# The same, or the started dockerd has exited.
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
  *) fail "$0 takes 'start' or 'stop', not '${1:-}'" ;;
esac
