"""What is wrong with ingress in all of the cluster, for ``node list`` and ``doctor``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Certificate, Environment, Heartbeat, Release, Rollout
from devopsellence.cli.render import ingress as view
from devopsellence.cli.render.ingress import IngressProblem
from devopsellence.cli.store.reader import Reader, certificates_by_host, concurrently
from devopsellence.cli.store.snapshot import target_of
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class IngressSummary:
    """One environment that has an ingress, and what is wrong with it."""

    environment: EnvironmentRef
    nodes: tuple[str, ...]
    hosts: int
    troubles: tuple[IngressProblem, ...]


async def ingress_summaries(etcd: Etcd, now: datetime) -> list[IngressSummary]:
    """All environments that run a release with an ingress, sorted; what cannot be read is left out.

    Of the others only the release is read, of these the statuses of their nodes and the certificates.
    """
    reader, refs = Reader(etcd), {}
    for key, environment in (await reader.get_prefix(etcd.keys.environments_prefix, Environment)).items():
        with suppress(ValueError):
            refs[etcd.keys.parse_environment(key)] = environment
    found = await concurrently(_standing(reader, ref, refs[ref], now) for ref in sorted(refs))
    return [each for each in found if each is not None]


async def _standing(
    reader: Reader, ref: EnvironmentRef, environment: Environment, now: datetime
) -> IngressSummary | None:
    if not environment.latest_release:
        return None
    keys, number = reader.etcd.keys, environment.latest_release
    rollout = await reader.get(keys.rollout(ref), Rollout)
    if rollout is not None and rollout.release == number:
        number = target_of(rollout)
    release = await reader.get(keys.release(ref, number), Release)
    if release is None or not release.HasField("ingress"):
        return None
    wanted = {name: keys.status(name, ref) for name in environment.nodes}
    statuses = await reader.get_many_under(keys.all_statuses_prefix, wanted, AssignmentStatus)
    beats = {name: keys.heartbeat(name) for name in environment.nodes}
    there = await reader.get_many_under(keys.heartbeats_prefix, beats, Heartbeat)
    certificates = certificates_by_host(keys, await reader.get_prefix(keys.certificates_prefix(ref), Certificate))
    # Of a node that is not there, others tell; its word may be old.
    said = {name: each for name, each in view.ingress_statuses(statuses).items() if name in there}
    troubles = view.node_problems(said) + view.certificate_problems(release.ingress, certificates, now)
    return IngressSummary(ref, tuple(sorted(said)), len(release.ingress.hosts), tuple(troubles))


def node_notes(found: list[IngressSummary]) -> dict[str, str]:
    """What is to be said of nodes, by name."""
    said: dict[str, list[str]] = {}
    for standing in found:
        for trouble in standing.troubles:
            for node in trouble.nodes:
                said.setdefault(node, []).append(f"ingress of {standing.environment}: {trouble.message}")
    return {node: "; ".join(sentences) for node, sentences in said.items()}
