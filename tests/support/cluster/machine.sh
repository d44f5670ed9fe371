#!/usr/bin/env bash
# The first process of a machine of the several-host test bed: machine.sh NAME DISK. Runs inside new namespaces (mounts,
# processes, network, host name, IPC) and makes /etc, /var/lib and /run the machine's own. Says `ready`, then waits for
# ever: when it is killed, the kernel ends everything else in the machine with it.
set -euo pipefail
readonly name=$1 disk=$2

hostname "$name"
# A machine that was just installed forwards nothing. Docker, which turns that on, then lets nobody else's through.
echo 0 >/proc/sys/net/ipv4/ip_forward
# Every mount was copied into this namespace. Those of containers elsewhere would keep alive what their engines remove;
# some are removed meanwhile.
sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* - \(overlay\|nsfs\) .*/\1/p' /proc/self/mountinfo |
  tac | while read -r point; do [ "$point" = / ] || umount --lazy "$point" 2>/dev/null || true; done

mkdir -p "$disk"/{docker,etcd,devopsellence}
exec {disk_fd}<"$disk"
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/lock /run/disk
# Through the descriptor, because the folder's own path may just have been hidden.
mount --bind "/proc/self/fd/$disk_fd" /run/disk
# /etc outlives a power cut.
for own in /run/disk/own/etc /run/own/var/lib; do
  folder=/${own#*own/}
  mkdir -p "$own/upper" "$own/work"
  mount -t overlay overlay -o "lowerdir=$folder,upperdir=$own/upper,workdir=$own/work" "$folder"
done
# What is large or should outlive the machine lies on a disk; an engine cannot keep its layers on an overlay.
for folder in docker etcd devopsellence; do
  mkdir -p "/var/lib/$folder"
  mount --bind "/run/disk/$folder" "/var/lib/$folder"
done
chmod 700 /var/lib/devopsellence

echo ready
exec >/dev/null
# Bash takes note of every orphan that ends here, as a first process must.
sleep infinity &
wait
