"""From a path to text: finding the file, reading it, and everything that can be wrong before YAML begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from devopsellence.config.problems import Mark, unusable

FILE_NAME: Final = "devopsellence.yml"
MAX_BYTES: Final = 1 << 20
# What YAML 1.2 (5.1, c-printable) does not allow in a file.
_FORBIDDEN: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]"


def find(start: Path) -> Path | None:
    """The ``devopsellence.yml`` that a command run in ``start`` is about: in it, or in the nearest folder above.

    The search ends at the root of the git working tree (the folder that holds ``.git``) and at the home folder, so that
    a stray file further up is not taken for this app's. None: there is no such file.
    """
    folder = start.absolute()
    for candidate in (folder, *folder.parents):
        if (candidate / FILE_NAME).is_file():
            return candidate / FILE_NAME
        if (candidate / ".git").exists() or candidate == _home():
            return None
    return None


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def read_file(path: Path) -> str:
    """The file's text, without a byte order mark.

    Raises:
        ConfigError: it cannot be opened, is larger than :data:`MAX_BYTES`, is not UTF-8, or has control characters.
    """
    file = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise unusable(file, f"there is no such file; write one, or run: {_INIT}") from error
    except IsADirectoryError as error:
        raise unusable(file, f"is a folder; name the file in it, such as {path / FILE_NAME}") from error
    except (OSError, ValueError) as error:
        raise unusable(file, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > MAX_BYTES:
        raise unusable(file, f"is larger than {MAX_BYTES >> 10} KiB, which no configuration should be")
    return _decoded(file, raw)


_INIT: Final = "devopsellence init"


def _decoded(file: str, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The part before the fault is sound by definition.
        mark = _mark_at_end(raw[: error.start].decode("utf-8-sig", "replace"))
        raise unusable(
            file, f"is not UTF-8 text: the byte 0x{raw[error.start]:02x} does not belong here", mark
        ) from error
    if match := re.search(_FORBIDDEN, text):
        fact = f"holds the control character U+{ord(match[0]):04X}, which YAML does not allow"
        raise unusable(file, fact, _mark_at_end(text[: match.start()]))
    return text


def _mark_at_end(text: str) -> Mark:
    return Mark(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)
