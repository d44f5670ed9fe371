"""Paths of the tree: folders of its own, and those that it shares with the host."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

#: Folder of all versions on a machine.
HOME: Final = PurePosixPath("/opt/devopsellence")
#: Programs, the script and the units, in the tree.
PROGRAMS: Final = "/usr/bin"
FILES: Final = "/usr/lib/devopsellence"
#: Python packages; Debian's Python looks there without being told.
PACKAGES: Final = "/usr/lib/python3/dist-packages"
#: Place of the host's /etc in the tree, for files that the host replaces: a bound file would go stale.
HOST_ETC: Final = "/host/etc"
#: Files of the host that programs read at their usual place.
HOST_FILES: Final = ("hosts", "resolv.conf")
#: Folders that are empty in the tree; systemd and ``enter.sh`` mount the host's there.
MOUNT_POINTS: Final = (
    *("/dev", "/proc", "/sys", "/run", "/tmp", "/var/tmp", "/root", "/home", HOST_ETC),  # noqa: S108
    *("/etc/devopsellence", "/etc/devopsellence-controller", "/etc/etcd"),
    *("/var/backups", "/var/lib/devopsellence", "/var/lib/devopsellence-controller", "/var/lib/docker"),
    "/var/lib/etcd",
)


def root(version: str) -> str:
    """Return the folder of a version on a machine."""
    return str(HOME / version)
