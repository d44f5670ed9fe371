#!/usr/bin/env bash
# What is done to devopsellence's etcd by hand. See docs/etcd.md for when.
set -euo pipefail

readonly HOME_DIR=/etc/etcd/devopsellence # the bundle of this machine's member; as in etcd.env
readonly UNIT=devopsellence-etcd.service
readonly TIMER=devopsellence-etcd-snapshot.timer
readonly KEEP=48
readonly SECONDS_TO_ANSWER=60

usage() {
  cat <<'EOF'
usage: etcd.sh COMMAND

On the machine of a member, as root:
  install FOLDER [--snapshots FOLDER]
                      Start a member (or renew its files) from the folder etcd-<name> that `devopsellence cluster init` made;
                      with the folder root as well, take a snapshot every hour.
  restore FILE [--settings FILE]
                      Put a snapshot in place of this member's data, which is moved aside; etcd is stopped on all machines.

Where root's certificate is (the lines that `devopsellence cluster init` prints say so in DEVOPSELLENCE_ETCD_*):
  status              Show each member: version, leader, size, alarms.
  snapshot FOLDER [--keep N]
                      Write a snapshot into the folder, check it, and keep the newest N (48).
  defrag              Give unused space back, one member after the other, the leader last.
  free                End the NOSPACE alarm: drop old revisions, defragment, disarm.
  add NAME [--pki FOLDER]
                      Let the new member in for which `devopsellence cluster init --etcd …` has made the folder etcd-NAME.
  replace NAME [--pki FOLDER]
                      The same for one that has lost its data or its machine: what was known of it is forgotten first.
EOF
}

note() { printf '%s\n' "$*"; }

# fail WHAT HAPPENED AND WHAT TO DO
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The part of etcdctl that works on files has been etcdutl's since etcd 3.6.
files_tool() { if have etcdutl; then etcdutl "$@"; else etcdctl "$@"; fi; }

# setting NAME FILE: what the variable holds in a file that systemd reads; the last one counts.
setting() { sed -n "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" "$2" | tail -n 1; }

need_root() { [ "$(id -u)" -eq 0 ] || fail "'$1' needs root: run it with sudo"; }

# Tell etcdctl what DEVOPSELLENCE_ETCD_* say; on a member's own machine its etcd.env says where it answers.
reach() {
  local scheme=http each endpoints=()
  have etcdctl || fail "etcdctl is not installed: on Debian 'apt-get install etcd-client'"
  if [ -n "${DEVOPSELLENCE_ETCD_CA_CERT:-}" ]; then
    scheme=https
    export ETCDCTL_CACERT=$DEVOPSELLENCE_ETCD_CA_CERT ETCDCTL_CERT=${DEVOPSELLENCE_ETCD_CERT:?} ETCDCTL_KEY=${DEVOPSELLENCE_ETCD_KEY:?}
  fi
  for each in $(tr ',' ' ' <<<"${DEVOPSELLENCE_ETCD_ENDPOINTS:-${ETCD_ADVERTISE_CLIENT_URLS:-}}"); do
    endpoints+=("$scheme://${each#*://}")
  done
  [ "${#endpoints[@]}" -gt 0 ] ||
    fail "nothing says where etcd is: 'devopsellence cluster init' prints the lines that set DEVOPSELLENCE_ETCD_ENDPOINTS and the certificates"
  ETCDCTL_ENDPOINTS=$(IFS=, && printf '%s' "${endpoints[*]}")
  export ETCDCTL_ENDPOINTS
}

# at URL COMMAND…: etcdctl for one member alone.
at() {
  local url=$1
  shift
  ETCDCTL_ENDPOINTS=$url etcdctl --command-timeout=10s "$@"
}

# state_of URL FIELD: what a member says of itself, such as Leader, MemberID, Revision; nothing when it does not answer.
state_of() { at "$1" endpoint status --write-out=fields 2>/dev/null | sed -n "s/^\"$2\" : //p" | tail -n 1; }

answers() { [ -n "$(state_of "$1" MemberID)" ]; }

is_leader() { [ "$(state_of "$1" Leader)" = "$(state_of "$1" MemberID)" ]; }

members() { etcdctl member list --write-out=simple || fail "etcd does not say which members it has: 'etcd.sh status' shows who answers"; }

# The client address of each member that has ever started, one a line.
addresses() { members | awk -F', ' '$2 == "started" { print $5 }'; }

# All members' addresses, the leader's last; fails when one does not answer.
in_turn() {
  local url all
  all=$(addresses)
  for url in $all; do
    answers "$url" || fail "the member at $url does not answer: mend that first, so that the others do not lose their majority"
  done
  answering
}

# The addresses of the members that answer, the leader's last.
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
    [ "$SECONDS" -lt "$end" ] || fail "the member at $1 does not answer after $SECONDS_TO_ANSWER s: look at its log ('journalctl -u $UNIT' there)"
    sleep 0.2
  done
}

show_status() {
  local all
  all=$(addresses)
  # One that is away makes etcdctl fail, and the others are shown all the same.
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
  local first revision said
  first=$(in_turn | tail -n 1)
  [ -n "$first" ] || fail "no member answers: 'etcd.sh status' shows who does"
  revision=$(state_of "$first" Revision)
  if ! said=$(etcdctl --command-timeout=10m compact --physical "$revision" 2>&1); then
    grep -q 'has been compacted' <<<"$said" || fail "revisions before $revision could not be dropped: $said"
  fi
  defrag
  etcdctl alarm disarm
  sleep 0.5 # a member that is still too full raises it again with the next write
  [ -z "$(etcdctl alarm list)" ] ||
    fail "the alarm is raised again: what etcd holds now is more than its quota; raise ETCD_QUOTA_BACKEND_BYTES in each member's etcd.env and restart them one after the other, then repeat this"
  note "etcd takes writes again"
}

snapshot() {
  local folder=${1:-} keep=$KEEP url file
  [ -n "$folder" ] || fail "where to? etcd.sh snapshot FOLDER"
  [ "${2:-}" != --keep ] || keep=${3:?}
  [[ $keep =~ ^[1-9][0-9]*$ ]] || fail "--keep is how many are kept, such as 48, not '$keep'"
  umask 077
  mkdir -p "$folder"
  # A member that follows: the leader has enough to do.
  url=$(answering | sed -n 1p)
  [ -n "$url" ] || fail "no member answers, so that there is nothing to take a snapshot of"
  file=$folder/etcd-$(date -u +%Y%m%dT%H%M%SZ).db
  ETCDCTL_ENDPOINTS=$url etcdctl --command-timeout=10m snapshot save "$file" >/dev/null
  files_tool snapshot status "$file" >/dev/null || fail "$file was written and cannot be read back: is the disk full?"
  sync "$file"
  find "$folder" -maxdepth 1 -name 'etcd-*.db' | sort | head -n "-$keep" | while read -r old; do rm -f "$old"; done
  note "$file"
}

restore() {
  local file=${1:-} settings=$HOME_DIR/etcd.env data owner name said
  [ -f "$file" ] || fail "there is no snapshot '$file': etcd.sh restore FILE"
  [ "${2:-}" != --settings ] || settings=${3:?}
  [ -f "$settings" ] || fail "there is no $settings: 'etcd.sh install' puts it there"
  need_root restore
  data=$(setting ETCD_DATA_DIR "$settings")
  name=$(setting ETCD_NAME "$settings")
  if [ -e "$data/member/snap/db" ] && ! flock --nonblock "$data/member/snap/db" true; then
    fail "etcd runs on this machine: 'systemctl stop $UNIT' first, on all machines"
  fi
  owner=$(stat -c %u:%g "$data" 2>/dev/null || stat -c %u:%g "$(dirname "$data")")
  # The token becomes part of the cluster's id: the same for all who restore this snapshot, and none that was there before.
  if ! said=$(files_tool snapshot restore "$file" --data-dir="$data.restored" --name="$name" \
    --initial-cluster="$(setting ETCD_INITIAL_CLUSTER "$settings")" \
    --initial-advertise-peer-urls="$(setting ETCD_INITIAL_ADVERTISE_PEER_URLS "$settings")" \
    --initial-cluster-token="devopsellence-$(sha256sum "$file" | cut -c1-12)" 2>&1); then
    rm -rf "$data.restored"
    fail "$file could not be restored: $said"
  fi
  chown -R "$owner" "$data.restored"
  if [ -e "$data" ]; then
    mv "$data" "$data.before-$(date -u +%Y%m%dT%H%M%S.%NZ)"
  fi
  mv "$data.restored" "$data"
  note "$name has the data of $file; its own is beside it. When all machines have: systemctl start $UNIT on each of them"
}

# The id of the member of that name, or, before it has ever started, at that peer address.
id_of() { members | awk -F', ' -v name="$1" -v peer="$2" '$3 == name || $4 == peer { print $1 }' | tail -n 1; }

# take_in add|replace NAME [--pki FOLDER]
take_in() {
  local how=$1 name=${2:-} pki=${DEVOPSELLENCE_HOME:-${XDG_STATE_HOME:-$HOME/.local/state}/devopsellence}/cluster settings peer id state client cluster
  [ -n "$name" ] || fail "which member? etcd.sh $how NAME"
  [ "${3:-}" != --pki ] || pki=${4:?}
  settings=$pki/etcd-$name/etcd.env
  [ -f "$settings" ] || fail "there is no $settings: name all members, the new one too, in 'devopsellence cluster init --etcd …'"
  peer=$(setting ETCD_INITIAL_ADVERTISE_PEER_URLS "$settings")
  id=$(id_of "$name" "$peer")
  state=$(members | awk -F', ' -v id="$id" '$1 == id { print $2 }')
  if [ "$state" = started ]; then
    [ "$how" = replace ] || fail "$name is a member already: 'etcd.sh replace $name' if its data or machine is lost"
    client=$(members | awk -F', ' -v id="$id" '$1 == id { print $5 }')
    ! answers "$client" || fail "$name answers at $client, so that it is not lost: stop etcd there first"
    etcdctl member remove "$id" >/dev/null
    state=''
  fi
  # One that was let in before and has not started yet is in already.
  [ -n "$state" ] || etcdctl member add "$name" --peer-urls="$peer" >/dev/null
  cluster=$(members | awk -F', ' -v name="$name" -v peer="$peer" '{ print ($4 == peer ? name : $3) "=" $4 }' | paste -sd,)
  sed -i '/^ETCD_INITIAL_CLUSTER=/d; /^ETCD_INITIAL_CLUSTER_STATE=/d' "$settings"
  printf 'ETCD_INITIAL_CLUSTER="%s"\nETCD_INITIAL_CLUSTER_STATE="existing"\n' "$cluster" >>"$settings"
  note "$name may join. On its machine, where $(setting ETCD_DATA_DIR "$settings") must be empty: etcd.sh install etcd-$name (the folder $pki/etcd-$name)"
}

# DESTDIR: put everything below that folder, and start nothing.
install_member() {
  local bundle=${1:-} snapshots='' here etc=${DESTDIR:-}$HOME_DIR units=${DESTDIR:-}/etc/systemd/system lib=${DESTDIR:-}/usr/local/lib/devopsellence file
  [ "${2:-}" != --snapshots ] || snapshots=${3:?}
  here=$(dirname "$0")
  for file in etcd.env ca.crt tls.crt tls.key; do
    [ -f "$bundle/$file" ] || fail "'$bundle' is not a member's folder, it lacks $file: 'devopsellence cluster init' makes it"
  done
  need_root install
  if [ -z "${DESTDIR:-}" ]; then
    have etcd || fail "etcd is not installed: version 3.5.33 or 3.6.14 or newer, see docs/etcd.md"
    ! systemctl is-active --quiet etcd || fail "another etcd runs on this machine: 'systemctl disable --now etcd', then repeat this"
    id etcd >/dev/null 2>&1 || useradd --system --home-dir /var/lib/etcd --shell /usr/sbin/nologin etcd
  fi
  install -d -m 0755 "$etc" "$units" "$lib"
  install -m 0644 "$bundle/etcd.env" "$bundle/ca.crt" "$bundle/tls.crt" "$etc"
  # etcd reads certificate and key anew for every connection, so that renewed files need no restart.
  install -m 0400 "$bundle/tls.key" "$etc/tls.key.new"
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
    # A first member answers when a second one is there, so this does not wait.
    systemctl enable --now --no-block "$UNIT"
    [ -z "$snapshots" ] || systemctl enable --now "$TIMER"
    note "etcd is being started: 'systemctl status $UNIT' shows how it fares"
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
