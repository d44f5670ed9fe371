"""Finding and reading devopsellence.yml, with all checks before YAML parsing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from devopsellence.config.problems import Mark, unusable
from devopsellence.input_file import PIPE_TIMEOUT, read_up_to

FILE_NAME: Final = "devopsellence.yml"
MAX_BYTES: Final = 1 << 20
# Characters outside of YAML 1.2's c-printable (section 5.1).
_FORBIDDEN: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]"


def find(start: Path) -> Path | None:
    """Find ``devopsellence.yml`` in ``start`` or the nearest parent folder; None if not found.

    The search ends at the root of the git working tree (the folder with ``.git``) and at the home folder, so that a
    stray file further up is never used.
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


def read_file(path: Path, pipe_timeout: float = PIPE_TIMEOUT) -> str:
    """Read the text of the file, without a byte order mark. A pipe may be silent for ``pipe_timeout`` seconds.

    Raises:
        ConfigError: the file cannot be opened, larger than :data:`MAX_BYTES`, not UTF-8, or has control characters.
    """
    file = str(path)
    try:
        raw = read_up_to(path, MAX_BYTES + 1, pipe_timeout)
    except TimeoutError as error:
        fact = f"is a pipe into which nothing was written for {pipe_timeout:g} s; start its writer, or give a file"
        raise unusable(file, fact) from error
    except FileNotFoundError as error:
        raise unusable(file, f"file not found; write one, or run: {_INIT}") from error
    except IsADirectoryError as error:
        raise unusable(file, f"is a folder; give the path of a file, such as {path / FILE_NAME}") from error
    except (OSError, ValueError) as error:
        raise unusable(file, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return decode(file, raw)


def decode(file: str, raw: bytes) -> str:
    """Return the text of ``raw``; ``file`` is its name in messages. At most ``MAX_BYTES + 1`` bytes need to be read.

    Raises:
        ConfigError: ``raw`` is larger than :data:`MAX_BYTES`, not UTF-8, or has control characters.
    """
    if len(raw) > MAX_BYTES:
        raise unusable(file, f"is larger than {MAX_BYTES >> 10} KiB, the limit for a configuration")
    return _decoded(file, raw)


_INIT: Final = "devopsellence init"


def _decoded(file: str, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The part before the error is valid UTF-8.
        mark = _mark_at_end(raw[: error.start].decode("utf-8-sig", "replace"))
        raise unusable(file, f"is not UTF-8 text: invalid byte 0x{raw[error.start]:02x}", mark) from error
    if match := re.search(_FORBIDDEN, text):
        fact = f"contains the control character U+{ord(match[0]):04X}, which YAML does not allow"
        raise unusable(file, fact, _mark_at_end(text[: match.start()]))
    return text


def _mark_at_end(text: str) -> Mark:
    return Mark(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)
