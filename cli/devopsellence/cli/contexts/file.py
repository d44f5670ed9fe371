"""File of the contexts: read whole, changed under a lock, replaced atomically.

Cheap to import, because most commands read the file. A damaged file is never overwritten.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from devopsellence.atomic_file import write_atomic
from devopsellence.cli.contexts.record import ClusterContext, InvalidContext
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.util.files import config_home
from devopsellence.names import NAME, check_name

VERSION: Final = 1
#: Largest file that is read, in bytes.
MAX_BYTES: Final = 1 << 20
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Contexts:
    """Contexts by name; ``current``: the context in use, "" for none."""

    by_name: Mapping[str, ClusterContext] = field(default_factory=dict)
    current: str = ""

    def get(self, name: str) -> ClusterContext:
        """Return the context of a name.

        Raises:
            InvalidName: ``name`` is not a name. CliError: ``context_unknown`` (exit code 2).
        """
        check_name("context", name)
        if name not in self.by_name:
            known = ", ".join(self.by_name)
            message = f"there is no context {name}" + (f"; known: {known}" if known else ": none was added yet")
            action = NextAction("add it", f"devopsellence context add {name} --help")
            raise CliError("context_unknown", message, exit_code=2, next_actions=[action])
        return self.by_name[name]

    def added(self, name: str, context: ClusterContext, *, use: bool = False) -> Contexts:
        """Return the contexts with another one, which is in use from then on with ``use``.

        Raises:
            InvalidName: ``name`` is not a name. CliError: ``context_exists`` (exit code 2).
        """
        self._check_free(name)
        return Contexts({**self.by_name, name: context}, name if use else self.current)

    def using(self, name: str) -> Contexts:
        """Return the contexts with another one in use; "" for none.

        Raises:
            InvalidName, CliError: as :meth:`get`.
        """
        if name:
            self.get(name)
        return replace(self, current=name)

    def renamed(self, old: str, new: str) -> Contexts:
        """Return the contexts with another name for one; a context in use stays in use.

        Raises:
            InvalidName, CliError: as :meth:`get` and :meth:`added`.
        """
        self.get(old)
        if new != old:
            self._check_free(new)
        names = {name: new if name == old else name for name in self.by_name}
        return Contexts({names[name]: context for name, context in self.by_name.items()}, names.get(self.current, ""))

    def without(self, name: str) -> Contexts:
        """Return the contexts without one; if it was in use, none is in use.

        Raises:
            InvalidName, CliError: as :meth:`get`.
        """
        self.get(name)
        left = {known: context for known, context in self.by_name.items() if known != name}
        return Contexts(left, self.current if self.current in left else "")

    def _check_free(self, name: str) -> None:
        check_name("context", name)
        if name in self.by_name:
            action = NextAction("remove it first", f"devopsellence context remove {name}")
            raise CliError("context_exists", f"there is a context {name} already", exit_code=2, next_actions=[action])


def path() -> Path:
    """Return the path of the file, which need not exist."""
    return config_home() / "contexts.json"


def load() -> Contexts:
    """Return the contexts; none without a file.

    Raises:
        CliError: ``contexts_unusable`` (exit code 2): the file cannot be read, or its content is damaged.
    """
    at = path()
    try:
        with at.open("rb") as file:
            found = os.fstat(file.fileno())
            text = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Contexts()
    except OSError as error:
        raise _unusable(f"cannot read {at}: {error.strerror}") from error
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & _WRITABLE_BY_OTHERS:
        # Whoever writes it decides where this user's commands go.
        raise _unusable(f"other users can write {at}", NextAction("take it back", f"chmod 600 {at}"))
    try:
        return _parse(text)
    except ValueError as error:
        action = NextAction("correct the file, or move it away", f"mv {at} {at}.damaged")
        raise _unusable(f"{at} is damaged and was not changed: {error}", action) from error


def change(edit: Callable[[Contexts], Contexts]) -> Contexts:
    """Replace the contexts by ``edit(contexts)`` while no other command changes them; return the new ones.

    Raises:
        CliError: ``contexts_unusable`` (exit code 2): the file is damaged, or cannot be written.
    """
    at = path()
    try:
        at.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(at.with_suffix(".lock")):
            before = load()
            after = edit(before)
            if after != before:
                write_atomic(at, _text(after))
            return after
    except OSError as error:
        raise _unusable(f"cannot write {at}: {error.strerror}") from error


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _text(contexts: Contexts) -> bytes:
    documents = {name: context.document() for name, context in contexts.by_name.items()}
    document = {"version": VERSION, "current": contexts.current, "contexts": documents}
    return json.dumps(document, indent=1).encode() + b"\n"


def _parse(text: bytes) -> Contexts:
    """Return the contexts in the file's text.

    Raises:
        ValueError: the text is damaged, or of a later version.
    """
    if len(text) > MAX_BYTES:
        raise InvalidContext(f"it is larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise InvalidContext("it is nested too deeply") from error
    if not isinstance(document, dict):
        raise InvalidContext("it is not a JSON object")
    if (version := document.get("version")) != VERSION:
        raise InvalidContext(f"its version is {version!r}, and this devopsellence reads version {VERSION}")
    if unknown := document.keys() - {"version", "current", "contexts"}:
        raise InvalidContext(f"{min(unknown)!r} is unknown to this version")
    current, recorded = document.get("current", ""), document.get("contexts", {})
    if not isinstance(recorded, dict) or not isinstance(current, str):
        raise InvalidContext("'contexts' is not an object, or 'current' not a text")
    if current and current not in recorded:
        raise InvalidContext(f"the context in use, {current!r}, is not among its contexts")
    return Contexts({name: _context(name, value) for name, value in recorded.items()}, current)


def _context(name: str, document: Any) -> ClusterContext:
    if not NAME.match(name):
        raise InvalidContext(f"{name!r} is not a name of a context")
    if not isinstance(document, dict):
        raise InvalidContext(f"the context {name} is not an object")
    try:
        return ClusterContext.parse(document)
    except ValueError as error:
        raise InvalidContext(f"the context {name}: {error}") from error


def _unusable(message: str, *actions: NextAction) -> CliError:
    return CliError("contexts_unusable", message, exit_code=2, next_actions=actions)
