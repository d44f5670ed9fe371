"""Volumes of root under an image that runs as another user: found after a program was denied access. Pure.

Docker gives a new volume the owner of the folder at its place in the image, and root if the image has no such folder
(https://docs.docker.com/engine/storage/volumes/#populate-a-volume-using-a-container). A volume that was first used by
an image that runs as root stays root's as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

#: Words for EACCES and EPERM in the C library, Go, Java, Node.js and Python.
_DENIED: Final = re.compile(
    r"permission denied|operation not permitted|access ?denied|\beacces\b|\beperm\b", re.IGNORECASE
)
_ROOT: Final = frozenset({"", "0", "root"})
_OTHERS_WRITE: Final = 0o002


@dataclass(frozen=True, slots=True)
class MountedVolume:
    """Writable volume of a container whose program does not run as root. ``user``: as in the image, without a group."""

    source: str
    path: str
    user: str
    image: str

    def hint(self, uid: int, mode: int) -> str:
        """Return the hint if the owner of the volume is why access was denied, as a sentence without a dot; else ""."""
        if uid != 0 or mode & _OTHERS_WRITE:
            return ""
        # The first digits of an id suffice, and are easier to read.
        image = self.image.removeprefix("sha256:")[:12] if self.image.startswith("sha256:") else self.image
        chown = (
            f"docker run --rm -u 0 -v {self.source}:{self.path} --entrypoint chown {image} -R {self.user} {self.path}"
        )
        return (
            f"its volume at {self.path} belongs to root, but its image runs as user {self.user}: run `{chown}` on this "
            f"node, and let the image have {self.path} with that owner, which new volumes take over"
        )


def says_denied(lines: Iterable[str]) -> bool:
    """Return True if the output of a program says that it was denied access."""
    return any(_DENIED.search(line) for line in lines)


def volumes_of(document: Mapping[str, Any]) -> list[MountedVolume]:
    """Return the volumes that a program without root's rights may be denied, from the engine's description."""
    config = document.get("Config") or {}
    user = str(config.get("User") or "").partition(":")[0]
    if user in _ROOT:
        return []
    return [
        MountedVolume(
            str(mount.get("Name") or mount.get("Source") or ""),
            str(mount.get("Destination", "")),
            user,
            str(config.get("Image", "")),
        )
        for mount in document.get("Mounts") or ()
        if mount.get("Type") in ("volume", "bind") and mount.get("RW")
    ]
