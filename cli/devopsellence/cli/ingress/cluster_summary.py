"""What is wrong with ingress in all of the cluster, for ``node list`` and ``doctor``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Certificate, Environment, Heartbeat, Release, Rollout
from devopsellence.cli.render import ingress as view
from devopsellence.cli.render.ingress import Trouble
from devopsellence.cli.store.reader import Reader, by_host, together
from devopsellence.cli.store.snapshot import target_of
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class Standing:
    """One environment that has an ingress, and what is wrong with it."""

    environment: EnvironmentRef
    nodes: tuple[str, ...]
    hosts: int
    troubles: tuple[Trouble, ...]


async def standings(etcd: Etcd, now: datetime) -> list[Standing]:
    """All environments that run a release with an ingress, sorted; what cannot be read is left out.

    Of the others only the release is read, of these the statuses of their nodes and the certificates.
    """
    reader, refs = Reader(etcd), {}
    for key, environment in (await reader.under(etcd.keys.environments_prefix, Environment)).items():
        with suppress(ValueError):
            refs[etcd.keys.parse_environment(key)] = environment
    found = await together(_standing(reader, ref, refs[ref], now) for ref in sorted(refs))
    return [each for each in found if each is not None]


async def _standing(reader: Reader, ref: EnvironmentRef, environment: Environment, now: datetime) -> Standing | None:
    if not environment.latest_release:
        return None
    keys, number = reader.etcd.keys, environment.latest_release
    rollout = await reader.one(keys.rollout(ref), Rollout)
    if rollout is not None and rollout.release == number:
        number = target_of(rollout)
    release = await reader.one(keys.release(ref, number), Release)
    if release is None or not release.HasField("ingress"):
        return None
    wanted = {name: keys.status(name, ref) for name in environment.nodes}
    statuses = await reader.among(keys.all_statuses_prefix, wanted, AssignmentStatus)
    beats = {name: keys.heartbeat(name) for name in environment.nodes}
    there = await reader.among(keys.heartbeats_prefix, beats, Heartbeat)
    certificates = by_host(keys, await reader.under(keys.certificates_prefix(ref), Certificate))
    # Of a node that is not there, others tell; its word may be old.
    said = {name: each for name, each in view.served(statuses).items() if name in there}
    troubles = view.of_nodes(said) + view.of_certificates(release.ingress, certificates, now)
    return Standing(ref, tuple(sorted(said)), len(release.ingress.hosts), tuple(troubles))


def notes(found: list[Standing]) -> dict[str, str]:
    """What is to be said of nodes, by name."""
    said: dict[str, list[str]] = {}
    for standing in found:
        for trouble in standing.troubles:
            for node in trouble.nodes:
                said.setdefault(node, []).append(f"ingress of {standing.environment}: {trouble.what}")
    return {node: "; ".join(sentences) for node, sentences in said.items()}
