"""``node label``: preview of the services moved by a change of labels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from devopsellence.api.v1.stored_pb2 import Environment, Node, Release, Rollout
from devopsellence.cli import errors
from devopsellence.cli.deploy import replicas
from devopsellence.cli.nodes.moves import ServiceMove, service_moves
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.store.reader import Reader, concurrently
from devopsellence.cli.store.snapshot import UnreadableKey, release_numbers
from devopsellence.cli.untrusted import safe
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class RelabelPreview:
    """Node record before and after the change, the moves, and the unreadable records."""

    before: Node
    after: Node
    moves: tuple[ServiceMove, ...]
    problems: tuple[UnreadableKey, ...]


async def preview_relabel(etcd: Etcd, name: str, edit: Callable[[list[str]], list[str]]) -> RelabelPreview:
    """Return the moves caused by changing the labels with ``edit``. Writes nothing.

    Raises:
        CliError: ``node_unknown``; or any error raised by ``edit``.
    """
    reader, keys = Reader(etcd), etcd.keys
    listing = await reader.get_prefix(keys.nodes_prefix, Node)
    before = listing.get(keys.node(name))
    if before is None:
        raise _unreadable(reader, keys.node(name)) or errors.node_unknown(name)
    after = Node()
    after.CopyFrom(before)
    after.labels[:] = edit(list(before.labels))
    environments = {
        ref: stored
        for ref, stored in (await _environments(reader)).items()
        if name in stored.nodes and stored.latest_release
    }
    releases = await concurrently(_running(reader, ref, environment) for ref, environment in environments.items())
    moves_: list[ServiceMove] = []
    for (ref, environment), release in zip(environments.items(), releases, strict=True):
        others = [node for other in environment.nodes if other != name and (node := listing.get(keys.node(other)))]
        services = release.services if release else ()
        number = release.number if release else 0
        current = await replicas.read_copies(etcd, ref, services, [before, *others], release=number)
        moves_ += service_moves(ref, services, before, after, others, current)
    return RelabelPreview(before, after, tuple(moves_), tuple(reader.problems))


def refusal(preview: RelabelPreview, anyway: str) -> CliError | None:
    """Return the error about services that would run nowhere after the change, else None.

    ``anyway`` is the command to change the labels anyway.
    """
    lost = [move for move in preview.moves if move.nowhere]
    if not lost:
        return None
    findings = [Finding("no_node_for_service", move.text()) for move in lost]
    action = NextAction("change the labels anyway", anyway)
    names = ", ".join(sorted({safe(move.service) for move in lost}))
    return CliError("no_node_for_service", f"{names} would run nowhere", findings=findings, next_actions=[action])


async def _environments(reader: Reader) -> dict[EnvironmentRef, Environment]:
    """Return all environments; other keys under the prefix are left out."""
    keys, environments = reader.etcd.keys, {}
    for key, environment in (await reader.get_prefix(keys.environments_prefix, Environment)).items():
        with suppress(ValueError):
            environments[keys.parse_environment(key)] = environment
    return environments


async def _running(reader: Reader, ref: EnvironmentRef, environment: Environment) -> Release | None:
    rollout = await reader.get(reader.etcd.keys.rollout(ref), Rollout)
    number = release_numbers(environment.latest_release, rollout).target
    return await reader.get(reader.etcd.keys.release(ref, number), Release)


def _unreadable(reader: Reader, key: str) -> CliError | None:
    for problem in reader.problems:
        if problem.key == key:
            show = NextAction("see the stored record", f"etcdctl get {key}")
            return CliError("record_unreadable", f"{key} is {problem.reason}", next_actions=[show])
    return None
