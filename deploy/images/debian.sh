# Sourced by the scripts beside it, after lib.sh: a small Debian from this machine's package sources. Bash only.
# shellcheck shell=bash

# Print the machine's Debian sources, in any format and from any mirror, as one-line entries, without other vendors'.
sources() {
  # shellcheck disable=SC2016  # apt fills these in, not the shell
  apt-get indextargets --format '$(ORIGIN)|$(CODENAME)|$(SIGNED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' \
    'Created-By: Packages' 2>/dev/null | sort -u |
    while IFS='|' read -r origin codename signed_by uri release component; do
      [ "$origin" = Debian ] || continue
      case "$codename" in "$1" | "$1"-updates | "$1"-security) ;; *) continue ;; esac
      case "$signed_by" in
        /*) printf 'deb [signed-by=%s] %s %s %s\n' "$signed_by" "$uri" "$release" "$component" ;;
        *) printf 'deb %s %s %s\n' "$uri" "$release" "$component" ;;
      esac
    done
}

# Print the apt settings for the mirror: proxies, certificates, time-outs, clock checks.
apt_options() {
  apt-config dump | grep -E '^Acquire::((http|https|ftp)::|Retries|Check-|ForceIPv)' | grep -v ' "";$' || true
}

# debian PACKAGES TARGET WORK: build a Debian like this machine's with these packages (separated by commas), without
# documentation, as a .tar file or a folder; WORK is a folder for temporary files.
debian() {
  local packages=$1 target=$2 work=$3 codename
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && printf %s "${VERSION_CODENAME:-}")
  [ -n "$codename" ] || fail "/etc/os-release names no VERSION_CODENAME: images are made on Debian only"
  have mmdebstrap || fail "mmdebstrap is missing: run 'make setup'"
  sources "$codename" >"$work/sources.list"
  apt_options >"$work/apt.conf"
  if [ ! -s "$work/sources.list" ]; then
    as_root apt-get update -qq
    sources "$codename" >"$work/sources.list"
  fi
  [ -s "$work/sources.list" ] || fail "no Debian '$codename' source in /etc/apt answers: see 'apt-get update'"
  as_root mmdebstrap --quiet --variant=minbase --include="$packages" \
    --aptopt="$work/apt.conf" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$codename" "$target" "$work/sources.list" ||
    fail "mmdebstrap could not build a Debian '$codename': see its output above, and check that 'apt-get update' works"
}
