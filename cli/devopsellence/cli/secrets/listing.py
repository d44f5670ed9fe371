"""``secret list``: stored secrets, the nodes with access, and the releases in use that name them; never values."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from devopsellence.api.v1.stored_pb2 import Release, Secret, SecretVersion
from devopsellence.cli.secrets import access, recipients, records, releases
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.releases import readable_in_use
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import columns, iso, since
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY, EnvironmentRef

_HEADER: Final = ("SERVICE", "SECRET", "VERSION", "SET", "BY", "READABLE ON", "RELEASE")


@dataclass(frozen=True)
class SecretEntry:
    """Row of the list of secrets.

    ``without_access`` are the attached nodes that cannot decrypt the secret; ``uses`` are the releases in use
    that name the secret, with the versions: the running release first, then the newest and the one to roll back to.
    """

    secret: SecretId
    version: SecretVersion
    nodes: tuple[str, ...]
    without_access: tuple[str, ...]
    operators: tuple[str, ...]
    uses: tuple[tuple[int, tuple[int, ...]], ...]


async def read_entries(etcd: Etcd, ref: EnvironmentRef) -> tuple[list[SecretEntry], list[UnreadableKey]]:
    """Return all secrets of the environment, sorted, and the problems of unreadable records."""
    secrets = await access.stored_secrets(etcd, ref)
    reader, names = Reader(etcd), []
    in_use = await readable_in_use(reader, ref)
    with suppress(MalformedRecord):  # Among the problems of the reader already.
        names = await recipients.attached(etcd, ref)
    keys = await recipients.of_nodes(etcd, names)
    entries = [entry_of(secret, stored, keys, in_use) for secret, stored in secrets.stored.items()]
    return entries, [*secrets.problems, *reader.problems]


def entry_of(secret: SecretId, stored: Secret, keys: Recipients, in_use: Sequence[Release]) -> SecretEntry:
    """Return the row of a secret."""
    version = records.current(stored)
    nodes = keys.nodes_among(version.recipients)
    return SecretEntry(
        secret=secret,
        version=version,
        nodes=tuple(nodes),
        without_access=tuple(name for name in keys.names if name not in nodes),
        operators=tuple(keys.operators_among(version.recipients)),
        uses=tuple(
            (release.number, tuple(sorted(versions)))
            for release in in_use
            if (versions := releases.pinned(release, secret))
        ),
    )


def table(entries: Sequence[SecretEntry], now: datetime) -> str:
    """Return the list as a text table."""
    return columns(_HEADER, [_cells(entry, now) for entry in entries])


def document(entry: SecretEntry) -> dict[str, Any]:
    """Return the JSON form of a row."""
    return {
        "service": entry.secret.service,
        "name": entry.secret.name,
        "version": entry.version.version,
        "set_at": iso(entry.version.set_at),
        "set_by": entry.version.set_by,
        "nodes": list(entry.nodes),
        "nodes_without_access": list(entry.without_access),
        "operators": list(entry.operators),
        "release": entry.uses[0][0] if entry.uses else None,
        "release_versions": list(entry.uses[0][1]) if entry.uses else [],
        "used_by": [{"release": number, "versions": list(versions)} for number, versions in entry.uses],
    }


def _cells(entry: SecretEntry, now: datetime) -> list[str]:
    age = since(entry.version.set_at, now)
    return [
        "(registry)" if entry.secret.service == REGISTRY else entry.secret.service,
        entry.secret.name,
        str(entry.version.version),
        f"{age} ago" if age else "-",
        safe(entry.version.set_by) or "-",
        "; ".join(
            [
                ", ".join(entry.nodes) or "-",
                *([f"not {', '.join(entry.without_access)}"] if entry.without_access else []),
            ]
        ),
        _use(entry),
    ]


def _use(entry: SecretEntry) -> str:
    cells = []
    for release, versions in entry.uses:
        old = [str(number) for number in versions if number != entry.version.version]
        cells.append(f"{release} (version {', '.join(old)})" if old else str(release))
    return ", ".join(cells) or "-"
