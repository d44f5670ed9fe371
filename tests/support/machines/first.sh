# The first process of a bed of whole machines: bash -c TEXT first FOLDER, inside new namespaces (mounts, processes,
# network). Makes the switch, says `ready`, and ends with its input; the kernel ends everything else in the namespaces.
set -euo pipefail

exec {folder}<"$1"
# Every mount was copied into this namespace. Those of containers elsewhere would keep alive what their engines remove;
# some are removed meanwhile.
sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* - \(overlay\|nsfs\) .*/\1/p' /proc/self/mountinfo |
  tac | while read -r point; do [ "$point" = / ] || umount --lazy "$point" 2>/dev/null || true; done
# systemd-nspawn leaves folders in both when it is killed.
mount -t tmpfs -o mode=755 none /run
mkdir /run/bed
# Through the descriptor, because the folder's own path is hidden or about to be.
mount --bind "/proc/self/fd/$folder" /run/bed
mount -t tmpfs none /tmp

ip link set lo up
ip link add switch type bridge
ip address add 10.77.0.1/24 dev switch
ip link set switch up

echo ready
exec >/dev/null
# Not with exec: the first process takes note of every orphan that ends, as bash does.
cat
