"""What must hold before anything is built or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from devopsellence.api.v1.stored_pb2 import Assignment, Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.deploy.replicas import placement_filters, placements_held, with_replicas
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.placement import Refusal, layout, unplaced, why_nowhere, why_short, why_stuck


def placement_error(
    environment: str, services: Sequence[Service], nodes: Sequence[Node], assigned: Mapping[str, Assignment]
) -> CliError | None:
    """The error for services that none of the attached ``nodes``, or fewer than they have replicas, would run, all of
    them at once; None when all run.

    ``assigned`` is by node; only needed where a service has replicas. More replicas than nodes is the configuration's
    fault (exit code 2).
    """
    refusals = _refusals(services, nodes, assigned)
    if not refusals:
        return None
    exit_code = 2 if any(service.name in refusals for service in with_replicas(services)) else 1
    if not nodes:
        mend = NextAction("attach one", f"devopsellence node attach <node> --env {environment}")
        message = f"{environment}: no node is attached; run {mend.command}"
        return CliError("no_node_for_service", message, next_actions=[mend], exit_code=exit_code)
    findings = [
        Finding(
            "no_node_for_service",
            f"{environment}: {refusal}",
            next_actions=(NextAction("make room for it", refusal.command),),
        )
        for refusal in refusals.values()
    ]
    if len(findings) == 1:
        return CliError("no_node_for_service", findings[0].message, findings=findings, exit_code=exit_code)
    message = f"{environment}: {len(findings)} services have no node to run on"
    if exit_code == 2:
        message = f"{environment}: {len(findings)} services have too few nodes to run on"
    return CliError("no_node_for_service", message, findings=findings, exit_code=exit_code)


def _refusals(
    services: Sequence[Service], nodes: Sequence[Node], assigned: Mapping[str, Assignment]
) -> dict[str, Refusal]:
    """What stands in the way of each service that cannot run as it should, in the order given."""
    spreads = layout(services, nodes, placements_held(assigned)).spreads
    found = {service.name: why_nowhere(service, nodes) for service in unplaced(services, nodes)}
    for name, spread in spreads.items():
        found[name] = why_short(spread, nodes) or why_stuck(spread, nodes)
    ordered = {service.name: found.get(service.name) for service in services}
    return {name: refusal for name, refusal in ordered.items() if refusal is not None}


def replica_warnings(
    services: Sequence[Service], nodes: Sequence[Node], assigned: Mapping[str, Assignment], silent: AbstractSet[str]
) -> list[str]:
    """A sentence for each service that will have fewer replicas than it should until the ``silent`` nodes answer."""
    placed = layout(services, nodes, placements_held(assigned), placement_filters(silent))
    short = [why_short(spread, nodes, placement_filters(silent)) for spread in placed.spreads.values()]
    return [f"for now, {refusal}" for refusal in short if refusal is not None]


def dependency_warnings(
    services: Sequence[Service], nodes: Sequence[Node], assigned: Mapping[str, Assignment]
) -> list[str]:
    """A sentence for each service that depends on one which does not run on all of its nodes.

    A node knows and reaches only what it runs itself, so there such a dependency is not waited for.
    """
    known = {service.name for service in services}
    placed = layout(services, nodes, placements_held(assigned))
    found = []
    for service in services:
        homes = placed.nodes_of(service.name)
        for dependency in service.depends_on:
            others = placed.nodes_of(dependency.service)
            without = [name for name in homes if dependency.service in known and name not in others]
            if without:
                found.append(
                    f'"{service.name}" depends on "{dependency.service}", which does not run on {", ".join(without)}: '
                    "there it is neither waited for nor reachable"
                )
    return found
