"""``env list``: every environment of the cluster, and what is left of deleted ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from devopsellence.api.v1.stored_pb2 import Environment
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.cli.util.text import collapse_ranges, iso, since
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef, Keys

HEADER: Final = ("ENVIRONMENT", "RELEASE", "AGE", "NODES", "NOTE")
# Width of the list of nodes in the table, in characters.
_WIDTH: Final = 40


@dataclass(frozen=True)
class ListedEnvironment:
    """Environment in the list; ``environment`` is None if there is no readable record. ``note``: a problem, or ""."""

    ref: EnvironmentRef
    environment: Environment | None
    note: str = ""

    def cells(self, now: datetime) -> tuple[str, ...]:
        """Return the row of the table."""
        stored = self.environment
        if stored is None:
            return (str(self.ref), "-", "-", "-", self.note)
        release = str(stored.latest_release) if stored.latest_release else "-"
        nodes = collapse_ranges(stored.nodes, _WIDTH) or "-"
        return (str(self.ref), release, since(stored.created_at, now) or "-", nodes, self.note)

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        stored = self.environment
        return {
            "environment": str(self.ref),
            "latest_release": stored.latest_release if stored is not None else None,
            "nodes": list(stored.nodes) if stored is not None else None,
            "created_at": iso(stored.created_at) if stored is not None else None,
            "note": self.note,
        }


async def list_environments(etcd: Etcd) -> tuple[list[ListedEnvironment], list[UnreadableKey]]:
    """Return all environments, sorted, with those of which only records are left; and the unreadable keys."""
    reader, keys = Reader(etcd), etcd.keys
    environments = await reader.get_prefix(keys.environments_prefix, Environment)
    prefixes = (
        *(keys.rollouts_prefix, keys.all_releases_prefix, keys.all_secrets_prefix, keys.all_certificates_prefix),
        *(keys.all_assignments_prefix, keys.all_statuses_prefix, keys.all_ingress_prefix),
    )
    listings = await asyncio.gather(*(etcd.list(prefix, keys_only=True) for prefix in prefixes))
    left = (item.key for listing in listings for item in listing.items)
    return listed(keys, environments, reader.problems, left), reader.problems


def listed(
    keys: Keys, environments: Mapping[str, Environment], problems: Iterable[UnreadableKey], left: Iterable[str]
) -> list[ListedEnvironment]:
    """Return the list for the readable records, the unreadable ones and the keys of all other kinds. Pure."""
    found: dict[EnvironmentRef, ListedEnvironment] = {}
    for key, environment in environments.items():
        if (ref := environment_of(keys, key)) is not None:
            found[ref] = ListedEnvironment(ref, environment)
    for problem in problems:
        if (ref := environment_of(keys, problem.key)) is not None:
            found[ref] = ListedEnvironment(ref, None, "its record cannot be read")
    for key in left:
        ref = environment_of(keys, key)
        if ref is not None and ref not in found:
            note = f"has no record, but others are left: devopsellence env delete {ref}"
            found[ref] = ListedEnvironment(ref, None, note)
    return [found[ref] for ref in sorted(found)]


def environment_of(keys: Keys, key: str) -> EnvironmentRef | None:
    """Return the environment that a key of any kind belongs to; None for none. Pure."""
    parsers: tuple[Callable[[str], EnvironmentRef], ...] = (
        keys.parse_environment,
        lambda text: keys.parse_release(text)[0],
        lambda text: keys.parse_secret(text)[0],
        lambda text: keys.parse_certificate(text)[0],
        lambda text: keys.parse_assignment(text)[1],
        lambda text: keys.parse_ingress(text)[1],
    )
    for parse in parsers:
        with suppress(ValueError):
            return parse(key)
    return None
