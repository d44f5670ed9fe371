"""Preflight checks of a deploy: every service has enough nodes and reaches its dependencies; warnings. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.deploy.replicas import CurrentCopies, with_replicas
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.placement import (
    Refusal,
    UnreachableDependency,
    unplaced_services,
    unreachable_dependencies,
    why_nowhere,
    why_short,
    why_stuck,
)


def placement_error(
    environment: str, services: Sequence[Service], nodes: Sequence[Node], current: CurrentCopies
) -> CliError | None:
    """Return an error with all services that have no node, or fewer nodes than replicas; None if there are none.

    More replicas than nodes is an error of the configuration (exit code 2).
    """
    refusals = _refusals(services, nodes, current)
    if not refusals:
        return None
    exit_code = 2 if any(service.name in refusals for service in with_replicas(services)) else 1
    if not nodes:
        fix = NextAction("attach a node", f"devopsellence node attach <node> --env {environment}")
        message = f"{environment}: no node is attached; run {fix.command}"
        return CliError("no_node_for_service", message, next_actions=[fix], exit_code=exit_code)
    findings = [
        Finding(
            "no_node_for_service",
            f"{environment}: {refusal}",
            next_actions=(NextAction("how to fix it", refusal.command),),
        )
        for refusal in refusals.values()
    ]
    if len(findings) == 1:
        return CliError("no_node_for_service", findings[0].message, findings=findings, exit_code=exit_code)
    message = f"{environment}: {len(findings)} services have no node to run on"
    if exit_code == 2:
        message = f"{environment}: {len(findings)} services have too few nodes to run on"
    return CliError("no_node_for_service", message, findings=findings, exit_code=exit_code)


def _refusals(services: Sequence[Service], nodes: Sequence[Node], current: CurrentCopies) -> dict[str, Refusal]:
    """Return the refusal for every service without enough nodes, in the order of ``services``."""
    spreads = current.place_when_reachable(services, nodes).replica_placements
    refusals = {service.name: why_nowhere(service, nodes) for service in unplaced_services(services, nodes)}
    for name, spread in spreads.items():
        refusals[name] = why_short(spread, nodes) or why_stuck(spread, nodes)
    ordered = {service.name: refusals.get(service.name) for service in services}
    return {name: refusal for name, refusal in ordered.items() if refusal is not None}


def replica_warnings(services: Sequence[Service], nodes: Sequence[Node], current: CurrentCopies) -> list[str]:
    """Return a warning for each service with too few replicas until the unreachable nodes are reachable again."""
    placed = current.place(services, nodes)
    short = [why_short(spread, nodes, current.filters) for spread in placed.replica_placements.values()]
    return [f"for now, {refusal}" for refusal in short if refusal is not None]


def dependency_error(
    environment: str, services: Sequence[Service], nodes: Sequence[Node], current: CurrentCopies
) -> CliError | None:
    """Return an error with all services that run on a node without a service that they depend on; None: there are none.

    Such a service would be started and would never reach what it needs (exit code 2).
    """
    found = [problem for problem in _unreachable(services, nodes, current) if not problem.awaits_completion]
    if not found:
        return None
    findings = [
        Finding(
            "dependency_unreachable",
            f"{environment}: {problem}",
            next_actions=(
                NextAction("let both run on the same nodes", "devopsellence node label set <node> <label>…"),
            ),
        )
        for problem in found
    ]
    message = findings[0].message
    if len(findings) > 1:
        message = f"{environment}: {len(findings)} dependencies cannot be reached from where they are needed"
    return CliError("dependency_unreachable", message, findings=findings, exit_code=2)


def dependency_warnings(services: Sequence[Service], nodes: Sequence[Node], current: CurrentCopies) -> list[str]:
    """Return a warning for each dependency whose completion is not awaited on some nodes of the dependent service."""
    return [str(problem) for problem in _unreachable(services, nodes, current) if problem.awaits_completion]


def _unreachable(
    services: Sequence[Service], nodes: Sequence[Node], current: CurrentCopies
) -> list[UnreachableDependency]:
    return unreachable_dependencies(services, current.place_when_reachable(services, nodes))
