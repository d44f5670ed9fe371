"""age identity of the operator: a private file, and its public key in etcd."""

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

from devopsellence import input_file
from devopsellence.age import AgeIdentity, EncryptionError
from devopsellence.api.v1.stored_pb2 import Operator
from devopsellence.cli.access_token import IDENTITY, TokenSettings
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.store import author as certificate_author
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.util.files import state_home
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings

_NAME_PART: Final = 26


@dataclass(frozen=True)
class OperatorIdentity:
    """Identity of this operator: name under ``operators/`` in etcd, key, and its place for messages."""

    name: str
    identity: AgeIdentity
    place: str


def identity_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the identity: ``DEVOPSELLENCE_IDENTITY``, else a file in the state folder."""
    chosen = environ.get(IDENTITY)
    return Path(chosen).absolute() if chosen else state_home(environ) / "operator.age"


async def own_identity(etcd: Etcd) -> OperatorIdentity:
    """Return the identity of this operator, created if missing and registered in etcd as a recipient.

    Raises:
        CliError: ``identity_unusable``: the file cannot be read or created, or its content is invalid, or this process
            has a token without an identity.
    """
    path = path_for(etcd.settings)
    if path is None:
        message = "this token has no age identity, because its roles neither set nor read secrets"
        raise CliError("identity_unusable", message)
    identity = await asyncio.to_thread(load_or_create, path)
    place = "of the token" if isinstance(etcd.settings, TokenSettings) else str(path)
    return OperatorIdentity(await _registered(etcd, identity.recipient), identity, place)


def path_for(settings: Settings) -> Path | None:
    """Return the path of the identity of these settings; None for a token without one."""
    return settings.identity if isinstance(settings, TokenSettings) else identity_path()


def load_or_create(path: Path) -> AgeIdentity:
    """Return the identity at ``path``, created atomically if missing.

    Raises:
        CliError: ``identity_unusable``.
    """
    try:
        if not path.exists():
            _make(path)
        return AgeIdentity(input_file.read(path).decode())
    except (OSError, UnicodeDecodeError, EncryptionError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else "not an age identity"
        action = NextAction("use another identity file", f"export {IDENTITY}=<file>")
        message = f"cannot use the operator identity {path}: {why}"
        raise CliError("identity_unusable", message, next_actions=[action]) from error


def _make(path: Path) -> None:
    """Create an identity at ``path``; a file created by another process at the same time wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp creates a file readable only by its owner.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(AgeIdentity.generate().text())
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()


async def _registered(etcd: Etcd, recipient: str) -> str:
    """Return the operator name of the public key ``recipient``, registered if missing."""
    known = await Reader(etcd).get_prefix(etcd.keys.operators_prefix, Operator)
    found = next((operator for operator in known.values() if operator.age_recipient == recipient), None)
    owner = certificate_author.operator_name(etcd)
    if found is not None and (found.operator or not owner):
        return found.name
    name = found.name if found is not None else operator_name(certificate_author.author(etcd), recipient)
    new = Operator(name=name, age_recipient=recipient, created_at=transaction.now())

    def edit(before: Operator | None) -> Operator:
        after = Operator()
        after.CopyFrom(before or new)
        # For ``operator remove``. Records of earlier versions name nobody.
        after.operator = after.operator or owner
        return after

    return (await transaction.change(etcd, etcd.keys.operator(name), Operator, edit)).name


def operator_name(who: str, recipient: str) -> str:
    """Return the operator name for the public key ``recipient`` created by ``who`` (``user@host``)."""
    user, _, host = who.partition("@")
    digest = hashlib.sha256(recipient.encode()).hexdigest()[:6]
    return f"{_part(user) or 'unknown'}.{_part(host.partition('.')[0]) or 'unknown'}-{digest}"


def is_named_after(operator: str, user: str) -> bool:
    """Return True if ``operator``, a result of :func:`operator_name`, is of somebody called ``user``."""
    return operator.startswith(f"{_part(user)}.")


def _part(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).lstrip("-_")[:_NAME_PART]
