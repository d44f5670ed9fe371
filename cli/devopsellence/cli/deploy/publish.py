"""Publishing a release: a single transaction, so that concurrent deploys get different numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from devopsellence.api.v1.stored_pb2 import Environment, Event, Node, Release
from devopsellence.cli.deploy import preflight, replicas
from devopsellence.cli.output import CliError
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import author
from devopsellence.cli.store.reader import concurrently
from devopsellence.cli.store.releases import read_numbers
from devopsellence.cli.util.text import plural
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Compare, Etcd, Put
from devopsellence.store.events import event_id
from devopsellence.store.keys import EnvironmentRef

_NUMBERS: Final = 2**32 - 1


@dataclass(frozen=True)
class PublishTarget:
    """Environment and attached nodes to publish a release to.

    ``mod_revision`` is 0 if the environment does not exist yet. ``newest`` is the highest existing release number,
    possibly above that of the environment (a stray key, a recreated environment). ``attached_now`` is the node attached
    by this deploy, "" for none. ``unreadable`` has the errors of unreadable node records.
    """

    environment: Environment
    mod_revision: int
    newest: int
    nodes: tuple[Node, ...]
    attached_now: str = ""
    unreadable: tuple[MalformedRecord, ...] = ()


async def read_target(etcd: Etcd, ref: EnvironmentRef, *, default_node: str = "") -> PublishTarget:
    """Read the environment and its nodes; ``default_node`` is attached if no node is attached.

    Raises:
        MalformedRecord: the environment record is unreadable and must not be overwritten.
    """
    key = etcd.keys.environment(ref)
    stored = await etcd.get(key)
    environment = decode(Environment, key, stored.value) if stored else transaction.new_environment(ref)
    attached_now = ""
    if not environment.nodes and default_node and await etcd.get(etcd.keys.node(default_node)):
        environment.nodes.append(default_node)
        attached_now = default_node
    releases = await etcd.list(etcd.keys.releases_prefix(ref), keys_only=True)
    newest = environment.latest_release
    for item in releases.items:
        try:
            number = etcd.keys.parse_release(item.key)[1]
        except ValueError:
            continue
        # A key written by hand may contain an invalid number.
        newest = max(newest, number if number < _NUMBERS else 0)
    nodes, unreadable = await _nodes(etcd, environment.nodes)
    return PublishTarget(environment, stored.mod_revision if stored else 0, newest, nodes, attached_now, unreadable)


async def _nodes(etcd: Etcd, names: Sequence[str]) -> tuple[tuple[Node, ...], tuple[MalformedRecord, ...]]:
    records = await concurrently(etcd.get(etcd.keys.node(name)) for name in names)
    nodes, unreadable = [], []
    for record in records:
        if record is None:
            continue
        try:
            nodes.append(decode(Node, record.key, record.value))
        except MalformedRecord as error:
            unreadable.append(error)
    return tuple(nodes), tuple(unreadable)


class NewerReleaseExists(Exception):
    """A newer release than the base of the draft exists, or another release runs; nothing was written."""


async def publish(
    etcd: Etcd,
    ref: EnvironmentRef,
    draft: Release,
    *,
    default_node: str = "",
    onto: int | None = None,
    runs: int | None = None,
) -> tuple[Release, PublishTarget]:
    """Store ``draft`` under the next number and return the numbered release with its environment.

    The environment is read and the nodes are checked before every attempt. ``onto`` is the newest release known to
    the caller, ``runs`` the rollout target: write only if that is still so. The author is whoever runs this process.

    Raises:
        CliError: ``no_node_for_service``; ``busy``: other deploys won every attempt.
        NewerReleaseExists: ``onto`` is not the newest release, or ``runs`` not the rollout target.
        Ambiguous: etcd stopped answering; the release may have been written.
    """
    marker = event_id(datetime.now(UTC))
    draft = numbered(draft, 0)
    draft.created_by = author(etcd)
    try:
        async for attempt in transaction.retrying():
            with attempt:
                return await _publish_once(etcd, ref, draft, default_node, marker, onto, runs)
    except transaction.WriteConflict as error:
        message = f"{ref}: other deploys kept writing first, so nothing was written; deploy again"
        raise CliError("busy", message) from error
    raise AssertionError("unreachable")


async def _publish_once(
    etcd: Etcd,
    ref: EnvironmentRef,
    draft: Release,
    default_node: str,
    marker: str,
    onto: int | None,
    runs: int | None,
) -> tuple[Release, PublishTarget]:
    target = await read_target(etcd, ref, default_node=default_node)
    # The marker is written with the release, at most once: its presence proves that an unanswered attempt succeeded,
    # even late.
    marker_key = etcd.keys.event(ref, marker)
    written = await etcd.get(marker_key)
    if written is not None:
        return numbered(draft, decode(Event, marker_key, written.value).release), target
    if onto is not None and target.environment.latest_release != onto:
        raise NewerReleaseExists
    if runs is not None and (await read_numbers(etcd, ref)).target != runs:
        raise NewerReleaseExists
    current = await replicas.read_copies(etcd, ref, draft.services, target.nodes)
    if problem := preflight.placement_error(ref.environment, draft.services, target.nodes, current):
        raise problem
    release = numbered(draft, target.newest + 1)
    environment = Environment()
    environment.CopyFrom(target.environment)
    environment.latest_release = release.number
    key, environment_key = etcd.keys.release(ref, release.number), etcd.keys.environment(ref)
    result = await etcd.txn(
        [Compare.absent(key), Compare.unmodified(environment_key, target.mod_revision), Compare.absent(marker_key)],
        [
            Put(key, encode(release)),
            Put(environment_key, encode(environment)),
            await transaction.event_put(etcd, ref, _event(release), name=marker),
        ],
    )
    if not result.succeeded:
        raise transaction.WriteConflict
    return release, target


def numbered(draft: Release, number: int) -> Release:
    """Return a copy of ``draft`` with the release number."""
    release = Release()
    release.CopyFrom(draft)
    release.number = number
    return release


def _event(release: Release) -> Event:
    revision = f" of {release.revision}" if release.revision else ""
    message = f": {release.message}" if release.message else ""
    services = plural(len(release.services), "service")
    text = f"{release.created_by} wrote release {release.number}{revision}, {services}{message}"
    return Event(severity=Event.INFO, code="release_created", message=text, release=release.number)
