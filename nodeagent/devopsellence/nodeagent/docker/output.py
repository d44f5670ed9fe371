"""Last lines of a container's output, fit for a status, and hints at why it ended. Pure.

Lines are bounded, without control characters and secrets: whoever may read etcd reads statuses and events, so a secret
that a container prints is replaced. The container itself says which of its variables come from secrets
(``names.LABEL_SECRETS``).

A program that is denied access may have a volume of root under an image that runs as another user. Docker gives a new
volume the owner of the folder at its place in the image, and root if the image has no such folder
(https://docs.docker.com/engine/storage/volumes/#populate-a-volume-using-a-container). A volume that was first used by
an image that runs as root stays root's as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from devopsellence.nodeagent.docker import names

MAX_LINES: Final = 20
MAX_LINE_CHARACTERS: Final = 500
#: All lines together, in UTF-8: a status holds the output of many services, and etcd limits its size.
MAX_BYTES: Final = 4096
REDACTED: Final = "[secret]"
#: Shortest value that is replaced: a shorter one is part of too many words.
MIN_SECRET_CHARACTERS: Final = 4
#: Escape sequences of terminals (ECMA-48): OSC and other strings up to their end, CSI, and those of two characters.
_ESCAPES: Final = re.compile(r"\x1b[\]PX^_][^\x07\x1b\r\n]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?")
#: Control characters, invisible formatting such as a change of direction, lone surrogates.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs"})
_CUT: Final = "…"
#: Words for EACCES and EPERM in the C library, Go, Java, Node.js and Python.
_DENIED: Final = re.compile(
    r"permission denied|operation not permitted|access ?denied|\beacces\b|\beperm\b", re.IGNORECASE
)
_ROOT: Final = frozenset({"", "0", "root"})
_OTHERS_WRITE: Final = 0o002


def last_lines(output: bytes, secrets: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the last lines of ``output``, oldest first, without the values of ``secrets``."""
    text = redacted(output, secrets).decode(errors="replace")
    lines = [_harmless(line) for line in _ESCAPES.sub("", text).splitlines()[-MAX_LINES:]]
    kept: list[str] = []
    room = MAX_BYTES
    for line in reversed(lines):
        room -= len(line.encode()) + 1
        if room < 0:
            break
        kept.append(line)
    return tuple(reversed(kept))


def secret_values(document: Mapping[str, Any]) -> Sequence[str]:
    """Return the values of a container's secrets, from the engine's description of the container."""
    config = document.get("Config") or {}
    label = str((config.get("Labels") or {}).get(names.LABEL_SECRETS, ""))
    variables = dict(str(variable).partition("=")[::2] for variable in config.get("Env") or ())
    return [variables[name] for name in label.split(",") if variables.get(name)]


def redacted(output: bytes, secrets: Iterable[str]) -> bytes:
    """Return ``output`` without the secrets; of one with several lines also without each of its lines."""
    values = {part.strip() for secret in secrets for part in (secret, *secret.splitlines())}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= MIN_SECRET_CHARACTERS:
            output = output.replace(value.encode(), REDACTED.encode())
    return output


def _harmless(line: str) -> str:
    clean = "".join(char for char in line if char == "\t" or unicodedata.category(char) not in _UNSAFE).rstrip()
    return clean if len(clean) <= MAX_LINE_CHARACTERS else clean[: MAX_LINE_CHARACTERS - 1] + _CUT


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
