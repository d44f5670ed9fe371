#!/usr/bin/env bash
# Install missing system packages, a Docker Engine and the virtual environment. Debian 12 or newer; elsewhere the script
# lists what is needed.
#
#   deploy/setup.sh           install everything
#   deploy/setup.sh python    install only the virtual environment: enough for checks and code generation
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

readonly VENV=.venv
readonly WHAT_IT_TAKES="Python 3.11 or newer with venv, Docker, etcd with etcdctl, docker-registry, pebble, mmdebstrap, busybox (static), systemd-nspawn, iptables, iproute2, xz, curl and OpenSSH (client and server)"

# The first Python that is new enough and can make virtual environments; fails when there is none.
find_python() {
  local python
  for python in ${PYTHON:-} python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s' "$python"
      return
    fi
  done
  return 1
}

docker_answers() { have docker && docker version >/dev/null 2>&1; }

# The Debian packages that this machine lacks, one a line.
missing_packages() {
  find_python >/dev/null || printf '%s\n' python3 python3-venv
  if [ "${1:-}" = python ]; then
    return
  fi
  if ! docker_answers; then
    if ! have dockerd; then
      echo docker.io
      # A kernel with AppArmor switched on refuses containers until its parser is there.
      [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" != Y ] || have apparmor_parser || echo apparmor
    fi
    mountpoint -q /sys/fs/cgroup || echo cgroupfs-mount
  fi
  have etcd || echo etcd-server
  have etcdctl || echo etcd-client
  have docker-registry || echo docker-registry
  have pebble || echo pebble
  have mmdebstrap || echo mmdebstrap
  # The test image holds nothing but busybox, so it has to be the one that needs no libraries.
  { [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; } || echo busybox-static
  have systemd-nspawn || echo systemd-container
  have iptables || echo iptables
  have ip || echo iproute2
  have curl || echo curl
  have ssh || echo openssh-client
  # Tests start an sshd of their own. Not installed on somebody's machine where an init system would start one for all
  # the network: there these tests say what they lack.
  have sshd || [ -x /usr/sbin/sshd ] || { [ -z "${CI:-}" ] && [ -d /run/systemd/system ]; } || echo openssh-server
  # Unpacks a bundle.
  have xz || echo xz-utils
}

install_packages() {
  local packages=("$@") log
  have apt-get || fail "missing here: ${packages[*]} (Debian's names). This script installs on Debian only; elsewhere install $WHAT_IT_TAKES yourself, then repeat the command"
  note "installing ${packages[*]}"
  as_root apt-get update -qq || fail "'apt-get update' failed: fix the package sources named above, then repeat the command"
  if ! log=$(as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
    apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 "${packages[@]}" 2>&1); then
    printf '%s\n' "$log" >&2
    fail "apt-get could not install ${packages[*]}: see its output above"
  fi
}

# Newer Debians keep the docker command apart from docker.io.
install_docker_command() {
  if ! have docker; then
    install_packages docker-cli
  fi
}

system() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if [ "${#missing[@]}" -eq 0 ]; then
    return
  fi
  install_packages "${missing[@]}"
  if [[ " ${missing[*]} " == *" etcd-server "* ]] && [ -d /run/systemd/system ]; then
    note "Debian's etcd-server has also started an etcd service on port 2379. Nothing here uses it:"
    note "'sudo systemctl disable --now etcd' if you do not want it"
  fi
  if [[ " ${missing[*]} " == *" docker-registry "* ]] && [ -d /run/systemd/system ]; then
    note "Debian's docker-registry has also started a registry on port 5000. Nothing here uses it:"
    note "'sudo systemctl disable --now docker-registry' if you do not want it"
  fi
}

# Hash of the inputs of the virtual environment: the project is installed again when one of them changes.
fingerprint() { cat pyproject.toml constraints.txt <(pwd -P) | sha256sum | cut -d' ' -f1; }

# Succeeds if the virtual environment works: its Python runs, is new enough, and the folder has not been moved or copied.
usable() {
  "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
    "$VENV/bin/pip" --version 2>/dev/null | grep -qF " $PWD/$VENV/"
}

virtual_environment() {
  local python wanted
  wanted=$(fingerprint)
  if [ "$(cat "$VENV/.installed" 2>/dev/null)" = "$wanted" ] && [ -x "$VENV/bin/python" ]; then
    return
  fi
  note "installing the project and its tools into $VENV (about a minute the first time)"
  if ! usable; then
    python=$(find_python) || fail "no Python 3.11 or newer with venv and ensurepip: install one, or name it with PYTHON=/path/to/python3"
    "$python" -m venv --clear "$VENV"
  fi
  # The file lists everything, so pip resolves nothing and checks every file's hash; the project itself has none.
  { "$VENV/bin/pip" install -qq --disable-pip-version-check --progress-bar off --require-hashes --requirement constraints.txt &&
    "$VENV/bin/pip" install -qq --disable-pip-version-check --progress-bar off --no-deps --no-build-isolation --editable .; } ||
    fail "pip could not install the project: see its output above; 'make lock' renews constraints.txt if a pinned version is gone"
  printf '%s\n' "$wanted" >"$VENV/.installed"
}

heading "Setting up"
case "${1:-}" in
  python) system python ;;
  '')
    system
    install_docker_command
    ./deploy/docker.sh start
    ;;
  *) fail "$0 takes no argument or 'python', not '$1'" ;;
esac
virtual_environment
note "everything is installed"
