"""Ingress problems of all environments, for ``node list`` and ``doctor``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Certificate, Environment, Heartbeat, Release, Rollout
from devopsellence.cli.render import ingress as ingress_view
from devopsellence.cli.render.ingress import IngressProblem
from devopsellence.cli.store.reader import Reader, certificates_by_host, concurrently
from devopsellence.cli.store.snapshot import release_numbers
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class IngressSummary:
    """Ingress of an environment with its problems."""

    environment: EnvironmentRef
    nodes: tuple[str, ...]
    hosts: int
    problems: tuple[IngressProblem, ...]


async def ingress_summaries(etcd: Etcd, now: datetime) -> list[IngressSummary]:
    """Return the environments with an ingress in the running release, sorted; unreadable records are left out."""
    reader, refs = Reader(etcd), {}
    for key, environment in (await reader.get_prefix(etcd.keys.environments_prefix, Environment)).items():
        with suppress(ValueError):
            refs[etcd.keys.parse_environment(key)] = environment
    summaries = await concurrently(_ingress_summary(reader, ref, refs[ref], now) for ref in sorted(refs))
    return [summary for summary in summaries if summary is not None]


async def _ingress_summary(
    reader: Reader, ref: EnvironmentRef, environment: Environment, now: datetime
) -> IngressSummary | None:
    if not environment.latest_release:
        return None
    keys = reader.etcd.keys
    number = release_numbers(environment.latest_release, await reader.get(keys.rollout(ref), Rollout)).target
    release = await reader.get(keys.release(ref, number), Release)
    if release is None or not release.HasField("ingress"):
        return None
    wanted = {name: keys.status(name, ref) for name in environment.nodes}
    statuses = await reader.get_many_under(keys.all_statuses_prefix, wanted, AssignmentStatus)
    beats = {name: keys.heartbeat(name) for name in environment.nodes}
    there = await reader.get_many_under(keys.heartbeats_prefix, beats, Heartbeat)
    certificates = certificates_by_host(keys, await reader.get_prefix(keys.certificates_prefix(ref), Certificate))
    # Unreachable nodes are reported elsewhere; their status may be out of date.
    reachable_statuses = {
        name: status for name, status in ingress_view.ingress_statuses(statuses).items() if name in there
    }
    problems = ingress_view.node_problems(reachable_statuses) + ingress_view.certificate_problems(
        release.ingress, certificates, now
    )
    return IngressSummary(ref, tuple(sorted(reachable_statuses)), len(release.ingress.hosts), tuple(problems))


def node_notes(summaries: list[IngressSummary]) -> dict[str, str]:
    """Return the ingress problems as text, by node."""
    clauses_by_node: dict[str, list[str]] = {}
    for summary in summaries:
        for problem in summary.problems:
            for node in problem.nodes:
                clauses_by_node.setdefault(node, []).append(f"ingress of {summary.environment}: {problem.message}")
    return {node: "; ".join(sentences) for node, sentences in clauses_by_node.items()}
