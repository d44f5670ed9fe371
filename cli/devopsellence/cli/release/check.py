"""What must hold before anything is built or written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.placement import places, unplaced, why_nowhere


def no_node(environment: str, services: Iterable[Service], nodes: Sequence[Node]) -> CliError | None:
    """The error for services that none of the attached ``nodes`` would run, all of them at once; None when all run."""
    missing = unplaced(services, nodes)
    if not missing:
        return None
    if not nodes:
        mend = NextAction("attach one", f"devopsellence node attach <node> --env {environment}")
        message = f"{environment}: no node is attached; run {mend.command}"
        return CliError("no_node_for_service", message, next_actions=[mend])
    findings = [
        Finding(
            "no_node_for_service",
            f"{environment}: {refusal}",
            next_actions=(NextAction("make room for it", refusal.command),),
        )
        for service in missing
        if (refusal := why_nowhere(service, nodes))
    ]
    if len(findings) == 1:
        return CliError("no_node_for_service", findings[0].message, findings=findings)
    message = f"{environment}: {len(findings)} services have no node to run on"
    return CliError("no_node_for_service", message, findings=findings)


def dependencies_elsewhere(services: Sequence[Service], nodes: Sequence[Node]) -> list[str]:
    """A sentence for each service that depends on one which does not run on all of its nodes.

    A node knows and reaches only what it runs itself, so there such a dependency is not waited for.
    """
    known = {service.name: service for service in services}
    found = []
    for service in services:
        homes = [node for node in nodes if places(service, node)]
        for dependency in service.depends_on:
            other = known.get(dependency.service)
            without = [node.name for node in homes if other is not None and not places(other, node)]
            if without:
                found.append(
                    f'"{service.name}" depends on "{dependency.service}", which does not run on {", ".join(without)}: '
                    "there it is neither waited for nor reachable"
                )
    return found
