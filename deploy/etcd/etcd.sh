#!/usr/bin/env bash
# Manual operations on devopsellence's etcd. See docs/etcd.md.
set -euo pipefail

readonly HOME_DIR=/etc/etcd/devopsellence # the files of this machine's member; as in etcd.env
readonly UNIT=devopsellence-etcd.service
readonly TIMER=devopsellence-etcd-snapshot.timer
readonly RENEW_TIMER=devopsellence-etcd-renew.timer
readonly KEEP=48
readonly SECONDS_TO_ANSWER=60

usage() {
  cat <<'EOF'
usage: etcd.sh COMMAND

On the machine of a member, as root:
  install FOLDER [--snapshots FOLDER] [--restart]
                      Start a member, or renew its files, from the folder etcd-<name> created by `devopsellence cluster init`.
                      With the folder root, also take a snapshot every hour. With --restart, restart a running member: it
                      reads a new ca.crt only then.
  restore FILE [--settings FILE]
                      Replace this member's data with a snapshot; existing data is moved aside. Stop etcd on all machines first.

With root's certificate, on a machine that reaches etcd itself. ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT and
ETCDCTL_KEY say where it is, by default the file root/etcdctl.env that `devopsellence cluster init` has written:
  status              Show each member: version, leader, size, alarms.
  snapshot FOLDER [--keep N]
                      Write a snapshot into the folder, verify it, and keep the newest N (default 48).
  defrag              Release unused disk space, one member after the other, the leader last.
  free                Clear the NOSPACE alarm: compact old revisions, defragment, disarm.
  add NAME [--pki FOLDER]
                      Add a new member, after `devopsellence cluster init --etcd …` has created the folder etcd-NAME.
  replace NAME [--pki FOLDER]
                      Replace a member that lost its data or machine: remove it, then add it again.
EOF
}

note() { printf '%s\n' "$*"; }

# fail MESSAGE: print what happened and how to fix it, and exit.
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Since etcd 3.6, commands on files are in etcdutl.
files_tool() { if have etcdutl; then etcdutl "$@"; else etcdctl "$@"; fi; }

# setting NAME FILE: print the value of a variable in a systemd environment file; the last one counts.
setting() { sed -n "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" "$2" | tail -n 1; }

need_root() { [ "$(id -u)" -eq 0 ] || fail "'$1' needs root: run it with sudo"; }

# Point etcdctl to etcd itself: by ETCDCTL_*, else on a member's machine by its etcd.env, else by the authority's folder.
reach() {
  local variables
  have etcdctl || fail "etcdctl is not installed: on Debian 'apt-get install etcd-client'"
  if [ -n "${ETCDCTL_ENDPOINTS:-}" ]; then
    :
  elif [ -n "${ETCD_ADVERTISE_CLIENT_URLS:-}" ]; then
    # As in the unit of snapshots, which has no HOME.
    export ETCDCTL_ENDPOINTS=$ETCD_ADVERTISE_CLIENT_URLS
  else
    variables=$(pki)/root/etcdctl.env
    if [ -f "$variables" ]; then
      # shellcheck source=/dev/null
      . "$variables"
    else
      fail "the address of etcd is unknown: set ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY; 'devopsellence cluster init' writes them to root/etcdctl.env"
    fi
  fi
  # etcdctl before 3.4 would use another API.
  export ETCDCTL_API=3
}

# Print the folder of the cluster's authority on this machine.
pki() { printf '%s' "${DEVOPSELLENCE_HOME:-${XDG_STATE_HOME:-$HOME/.local/state}/devopsellence}/cluster"; }

# at URL COMMAND…: run etcdctl for one member alone.
at() {
  local url=$1
  shift
  ETCDCTL_ENDPOINTS=$url etcdctl --command-timeout=10s "$@"
}

# state_of URL FIELD: print a field of a member's status, such as Leader, MemberID, Revision; nothing without an answer.
state_of() { at "$1" endpoint status --write-out=fields 2>/dev/null | sed -n "s/^\"$2\" : //p" | tail -n 1; }

answers() { [ -n "$(state_of "$1" MemberID)" ]; }

is_leader() { [ "$(state_of "$1" Leader)" = "$(state_of "$1" MemberID)" ]; }

members() { etcdctl member list --write-out=simple || fail "etcd does not list its members: 'etcd.sh status' shows which ones answer"; }

# Print the client address of each started member, one per line.
addresses() { members | awk -F', ' '$2 == "started" { print $5 }'; }

# Print all members' addresses, the leader's last; fail if one does not answer.
in_turn() {
  local url all
  all=$(addresses)
  for url in $all; do
    answers "$url" || fail "the member at $url does not answer: fix it first, or the others may lose their majority"
  done
  answering
}

# Print the addresses of answering members, the leader's last.
answering() {
  local url leader='' all
  all=$(addresses)
  for url in $all; do
    if ! answers "$url"; then continue; fi
    if is_leader "$url"; then leader=$url; else printf '%s\n' "$url"; fi
  done
  [ -z "$leader" ] || printf '%s\n' "$leader"
}

wait_for_answer() {
  local end=$((SECONDS + SECONDS_TO_ANSWER))
  # Not `endpoint health`, which is bad under an alarm; a read has to go by the majority.
  until at "$1" get devopsellence >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || fail "the member at $1 does not answer after $SECONDS_TO_ANSWER s: see its log ('journalctl -u $UNIT' on its machine)"
    sleep 0.2
  done
}

show_status() {
  local all
  all=$(addresses)
  # An unreachable member makes etcdctl fail; the others are shown anyway.
  ETCDCTL_ENDPOINTS=$(tr '\n' ',' <<<"$all" | sed 's/,*$//') etcdctl endpoint status --write-out=table || true
  note "alarms: $(etcdctl alarm list | tr '\n' ' ' | grep . || printf none)"
}

defrag() {
  local url all
  all=$(in_turn)
  for url in $all; do
    ETCDCTL_ENDPOINTS=$url etcdctl --command-timeout=10m defrag
    wait_for_answer "$url"
  done
}

free_space() {
  local first revision output
  first=$(in_turn | tail -n 1)
  [ -n "$first" ] || fail "no member answers: 'etcd.sh status' shows the members"
  revision=$(state_of "$first" Revision)
  if ! output=$(etcdctl --command-timeout=10m compact --physical "$revision" 2>&1); then
    grep -q 'has been compacted' <<<"$output" || fail "revisions before $revision could not be compacted: $output"
  fi
  defrag
  etcdctl alarm disarm
  sleep 0.5 # a member that is still too full raises it again with the next write
  [ -z "$(etcdctl alarm list)" ] ||
    fail "the alarm is raised again, because the data exceeds the quota: raise ETCD_QUOTA_BACKEND_BYTES in each member's etcd.env, restart the members one after the other, then repeat this command"
  note "etcd accepts writes again"
}

snapshot() {
  local folder=${1:-} keep=$KEEP url file
  [ -n "$folder" ] || fail "no folder given: etcd.sh snapshot FOLDER"
  [ "${2:-}" != --keep ] || keep=${3:?}
  [[ $keep =~ ^[1-9][0-9]*$ ]] || fail "--keep needs a number of snapshots, such as 48, not '$keep'"
  umask 077
  mkdir -p "$folder"
  # A follower, to save the leader's time.
  url=$(answering | sed -n 1p)
  [ -n "$url" ] || fail "no member answers: 'etcd.sh status' shows the members"
  file=$folder/etcd-$(date -u +%Y%m%dT%H%M%SZ).db
  ETCDCTL_ENDPOINTS=$url etcdctl --command-timeout=10m snapshot save "$file" >/dev/null
  files_tool snapshot status "$file" >/dev/null || fail "$file cannot be read back: check the free disk space"
  sync "$file"
  find "$folder" -maxdepth 1 -name 'etcd-*.db' | sort | head -n "-$keep" | while read -r old; do rm -f "$old"; done
  note "$file"
}

restore() {
  local file=${1:-} settings=$HOME_DIR/etcd.env data owner name output
  [ -f "$file" ] || fail "snapshot '$file' does not exist: etcd.sh restore FILE"
  [ "${2:-}" != --settings ] || settings=${3:?}
  [ -f "$settings" ] || fail "$settings does not exist: run 'etcd.sh install' first"
  need_root restore
  data=$(setting ETCD_DATA_DIR "$settings")
  name=$(setting ETCD_NAME "$settings")
  if [ -e "$data/member/snap/db" ] && ! flock --nonblock "$data/member/snap/db" true; then
    fail "etcd runs on this machine: run 'systemctl stop $UNIT' on all machines first"
  fi
  owner=$(stat -c %u:%g "$data" 2>/dev/null || stat -c %u:%g "$(dirname "$data")")
  # The token becomes part of the cluster id: the same on all machines that restore this snapshot, and a new one.
  if ! output=$(files_tool snapshot restore "$file" --data-dir="$data.restored" --name="$name" \
    --initial-cluster="$(setting ETCD_INITIAL_CLUSTER "$settings")" \
    --initial-advertise-peer-urls="$(setting ETCD_INITIAL_ADVERTISE_PEER_URLS "$settings")" \
    --initial-cluster-token="devopsellence-$(sha256sum "$file" | cut -c1-12)" 2>&1); then
    rm -rf "$data.restored"
    fail "$file could not be restored: $output"
  fi
  chown -R "$owner" "$data.restored"
  if [ -e "$data" ]; then
    mv "$data" "$data.before-$(date -u +%Y%m%dT%H%M%S.%NZ)"
  fi
  mv "$data.restored" "$data"
  note "$name has the data of $file; its previous data is in the folder beside. When all machines are restored, run 'systemctl start $UNIT' on each"
}

# Print the id of the member with this name, or, before its first start, with this peer address.
id_of() { members | awk -F', ' -v name="$1" -v peer="$2" '$3 == name || $4 == peer { print $1 }' | tail -n 1; }

# take_in add|replace NAME [--pki FOLDER]
take_in() {
  local how=$1 name=${2:-} pki settings peer id state client cluster
  [ -n "$name" ] || fail "no member given: etcd.sh $how NAME"
  pki=$(pki)
  [ "${3:-}" != --pki ] || pki=${4:?}
  settings=$pki/etcd-$name/etcd.env
  [ -f "$settings" ] || fail "$settings does not exist: run 'devopsellence cluster init --etcd …' with all members, including the new one"
  peer=$(setting ETCD_INITIAL_ADVERTISE_PEER_URLS "$settings")
  id=$(id_of "$name" "$peer")
  state=$(members | awk -F', ' -v id="$id" '$1 == id { print $2 }')
  if [ "$state" = started ]; then
    [ "$how" = replace ] || fail "$name is a member already: run 'etcd.sh replace $name' if its data or machine is lost"
    client=$(members | awk -F', ' -v id="$id" '$1 == id { print $5 }')
    ! answers "$client" || fail "$name answers at $client: stop etcd there first"
    etcdctl member remove "$id" >/dev/null
    state=''
  fi
  # A member that was added before and has not started yet is not added again.
  [ -n "$state" ] || etcdctl member add "$name" --peer-urls="$peer" >/dev/null
  cluster=$(members | awk -F', ' -v name="$name" -v peer="$peer" '{ print ($4 == peer ? name : $3) "=" $4 }' | paste -sd,)
  sed -i '/^ETCD_INITIAL_CLUSTER=/d; /^ETCD_INITIAL_CLUSTER_STATE=/d' "$settings"
  printf 'ETCD_INITIAL_CLUSTER="%s"\nETCD_INITIAL_CLUSTER_STATE="existing"\n' "$cluster" >>"$settings"
  note "$name is added. On its machine, with an empty $(setting ETCD_DATA_DIR "$settings"), run: etcd.sh install etcd-$name (a copy of the folder $pki/etcd-$name)"
}

# With DESTDIR: install below that folder, and start nothing.
install_member() {
  local member=${1:-} snapshots='' restart='' here etc=${DESTDIR:-}$HOME_DIR units=${DESTDIR:-}/etc/systemd/system lib=${DESTDIR:-}/usr/local/lib/devopsellence file
  [ $# -eq 0 ] || shift
  while [ $# -gt 0 ]; do
    case "$1" in
      --snapshots) snapshots=${2:?} && shift ;;
      --restart) restart=yes ;;
      *) fail "unknown option '$1': see 'etcd.sh --help'" ;;
    esac
    shift
  done
  here=$(dirname "$0")
  for file in etcd.env ca.crt tls.crt tls.key; do
    [ -f "$member/$file" ] || fail "'$member' is not a member's folder: it has no $file; 'devopsellence cluster init' creates the folder"
  done
  need_root install
  if [ -z "${DESTDIR:-}" ]; then
    # A unit of the bundle starts the etcd in its own tree.
    have etcd || grep -q '^RootDirectory=' "$here/$UNIT" || fail "etcd is not installed: version 3.5.33 or 3.6.14 or newer, see docs/etcd.md"
    ! systemctl is-active --quiet etcd || fail "another etcd runs on this machine: run 'systemctl disable --now etcd', then repeat this command"
    id etcd >/dev/null 2>&1 || useradd --system --home-dir /var/lib/etcd --shell /usr/sbin/nologin etcd
  fi
  install -d -m 0755 "$etc" "$units" "$lib"
  install -m 0644 "$member/etcd.env" "$member/ca.crt" "$member/tls.crt" "$etc"
  # etcd reads certificate and key for every connection, so renewed files need no restart.
  install -m 0400 "$member/tls.key" "$etc/tls.key.new"
  [ -n "${DESTDIR:-}" ] || chown etcd: "$etc/tls.key.new"
  mv "$etc/tls.key.new" "$etc/tls.key"
  install -m 0755 "$0" "$lib/etcd.sh"
  install -m 0644 "$here"/devopsellence-etcd*.service "$here"/devopsellence-etcd*.timer "$units"
  if [ -n "$snapshots" ]; then
    install -d -m 0700 "$etc/root"
    install -m 0400 "$snapshots/ca.crt" "$snapshots/tls.crt" "$snapshots/tls.key" "$etc/root"
  fi
  if [ -z "${DESTDIR:-}" ]; then
    systemctl daemon-reload
    # The first member answers only once a second one runs, so do not wait.
    systemctl enable --now --no-block "$UNIT"
    # Returns once the member serves again.
    [ -z "$restart" ] || systemctl restart "$UNIT"
    systemctl enable --now "$RENEW_TIMER"
    [ -z "$snapshots" ] || systemctl enable --now "$TIMER"
    note "etcd is starting: 'systemctl status $UNIT' shows its state"
  fi
}

command=${1:---help}
[ $# -eq 0 ] || shift
case "$command" in
  -h | --help | help) usage ;;
  install) install_member "$@" ;;
  restore) restore "$@" ;;
  status) reach && show_status ;;
  snapshot) reach && snapshot "$@" ;;
  defrag) reach && defrag ;;
  free) reach && free_space ;;
  add | replace) reach && take_in "$command" "$@" ;;
  *)
    usage >&2
    exit 2
    ;;
esac
