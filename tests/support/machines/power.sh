# Power of a machine: bash -c TEXT power NAME GROUP TREE. Runs the machine until it is switched off or its init is killed,
# and starts it again when it reboots. The file system is a layer above TREE.
set -euo pipefail
readonly name=$1 group=$2 tree=$3
readonly disk=/run/bed/$name root=/run/machines/$name

if ! mountpoint -q "$root"; then
  mkdir -p "$root"
  mount -t overlay overlay -o "lowerdir=$tree,upperdir=$disk/upper,workdir=$disk/work" "$root"
fi

# A control group of its own in each hierarchy: the machine sees it as the root, and has no other machine's in it.
sed -n 's/^[^ ]* \([^ ]*\) cgroup2\{0,1\} .*/\1/p' /proc/mounts | while read -r hierarchy; do
  own=$hierarchy/$group
  # Those of containers and units that the power cut ended.
  [ ! -d "$own" ] || find "$own" -mindepth 1 -depth -type d -exec rmdir {} +
  mkdir -p "$own"
  if [ -e "$own/cpuset.cpus" ]; then
    # A new group has neither processors nor memory, and takes no process then.
    for set in "$(dirname "$own")" "$own"; do
      cat "$hierarchy/cpuset.cpus" >"$set/cpuset.cpus"
      cat "$hierarchy/cpuset.mems" >"$set/cpuset.mems"
      echo 1 >"$set/cgroup.clone_children"
    done
  fi
  echo $$ >"$own/cgroup.procs"
done

# nspawn's own filter of system calls would be above the machine's: the units of the machine have theirs. Docker needs
# /proc/sys, and control groups of version 1.
export SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=0
while :; do
  code=0
  # An engine cannot keep its layers on an overlay.
  systemd-nspawn --quiet --boot --register=no --keep-unit --directory="$root" --machine="$name" \
    --bind="$disk/docker:/var/lib/docker" --network-bridge=switch --capability=all --console=read-only \
    </dev/null || code=$?
  # 133: `reboot` inside.
  [ "$code" -eq 133 ] || exit "$code"
done
