"""What must hold before anything is built or written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service, Task
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.placement import unplaced, why_nowhere


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


def secrets(environment: str, services: Iterable[Service]) -> CliError | None:
    """The error for services that want secrets, which this version cannot give; None when none does."""
    findings = [
        Finding("secrets_unsupported", f'service "{service.name}" refers to secret "{ref.secret}" as {ref.name}')
        for service in services
        for ref in service.secret_refs
    ]
    if not findings:
        return None
    message = f"{environment}: this version cannot give secrets to services yet; remove secret_refs to deploy"
    return CliError("secrets_unsupported", message, findings=findings)


def release_task(environment: str, task: Task | None) -> CliError | None:
    """The error for a release task, which this version cannot run; None when there is none.

    A release whose migration was left out is half-done work, so it is not written at all.
    """
    if task is None:
        return None
    message = f"{environment}: this version cannot run tasks.release yet; remove it to deploy, and run it by hand"
    return CliError("release_task_unsupported", message)
