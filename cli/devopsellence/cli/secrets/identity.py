"""The operator's own age identity: a file that only its owner reads, and its public half in etcd."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devopsellence.age import Identity, SealError
from devopsellence.api.v1.stored_pb2 import Operator
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.util.files import state_home
from devopsellence.store.etcd import Etcd

IDENTITY: Final = "DEVOPSELLENCE_IDENTITY"
_NAME_PART: Final = 26


@dataclass(frozen=True)
class OperatorIdentity:
    """Who we are to those who seal: ``name`` under ``operators/``, the identity, and where it lies."""

    name: str
    identity: Identity
    path: Path


def identity_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the identity lies: ``DEVOPSELLENCE_IDENTITY``, else in devopsellence's state folder."""
    chosen = environ.get(IDENTITY)
    return Path(chosen).absolute() if chosen else state_home(environ) / "operator.age"


async def own_identity(etcd: Etcd) -> OperatorIdentity:
    """The identity, made if there is none yet, and registered so that others seal for it as well.

    Raises:
        CliError: ``identity_unusable``: the file cannot be read or made, or holds no identity.
    """
    path = identity_path()
    identity = await asyncio.to_thread(load_or_create, path)
    return OperatorIdentity(await _registered(etcd, identity.recipient), identity, path)


def load_or_create(path: Path) -> Identity:
    """The identity at ``path``; a new one is put there, in one step, where there is none.

    Raises:
        CliError: ``identity_unusable``.
    """
    try:
        if not path.exists():
            _make(path)
        return Identity(path.read_text())
    except (OSError, UnicodeDecodeError, SealError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else "there is no age identity in it"
        mend = NextAction("say where yours is", f"export {IDENTITY}=<file>")
        message = f"the operator's identity {path} cannot be used: {why}"
        raise CliError("identity_unusable", message, next_actions=[mend]) from error


def _make(path: Path) -> None:
    """Put a new identity at ``path``; another process that is faster wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes it readable by its owner alone.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(Identity.generate().text())
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()


async def _registered(etcd: Etcd, recipient: str) -> str:
    """The name under which ``recipient`` stands among the operators; it is put there if it does not yet."""
    known = await Reader(etcd).under(etcd.keys.operators_prefix, Operator)
    for operator in known.values():
        if operator.age_recipient == recipient:
            return operator.name
    new = Operator(
        name=operator_name(transaction.who(), recipient), age_recipient=recipient, created_at=transaction.now()
    )
    return (await transaction.change(etcd, etcd.keys.operator(new.name), Operator, lambda before: before or new)).name


def operator_name(who: str, recipient: str) -> str:
    """The key's name for the identity ``recipient`` that ``who`` (``user@host``) made."""
    user, _, host = who.partition("@")
    digest = hashlib.sha256(recipient.encode()).hexdigest()[:6]
    return f"{_part(user) or 'unknown'}.{_part(host.partition('.')[0]) or 'unknown'}-{digest}"


def _part(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).lstrip("-_")[:_NAME_PART]
