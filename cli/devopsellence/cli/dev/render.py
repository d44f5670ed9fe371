"""The local cluster's status as text."""

from __future__ import annotations

import time
from typing import Final

from devopsellence.cli.dev.report import Part, Status
from devopsellence.cli.util.text import age, columns, safe

HEADER: Final = ("PROCESS", "PID", "UP", "RESTARTS", "HEALTH")


def status_text(status: Status) -> str:
    """A table of the processes, then the last lines of those that keep ending, then where everything is."""
    now = time.time()
    lines = [columns(HEADER, [cells(part, now) for part in status.parts])]
    for part in status.parts:
        lines += ending_lines(part)
    return "\n".join([*lines, "", *places(status)])


def cells(part: Part, now: float) -> list[str]:
    """A process as the table's cells, in the order of :data:`HEADER`."""
    report = part.report
    return [
        report.name,
        str(report.pid or "-"),
        age(now - report.since) if report.since else "-",
        str(report.restarts),
        safe(part.problem) or "healthy",
    ]


def ending_lines(part: Part) -> list[str]:
    """What a process that has a problem wrote before it last ended; nothing for one that never did."""
    report = part.report
    if not part.problem or not report.last_end:
        return []
    last = [f"    {safe(line)}" for line in report.last_lines]
    return ["", f"{report.name} {report.last_end}{'; its last lines:' if last else ''}", *last]


def places(status: Status) -> list[str]:
    state = status.state
    docker = safe(status.docker_problem or status.docker_version)
    lines = [
        f"Node    {state.node_name}",
        f"etcd    127.0.0.1:{state.client_port} (peers {state.peer_port})",
        f"Agent   {status.agent_endpoint or '-'}",
        f"Apps    {', '.join(status.ingress_urls) or '-'}",
        f"Docker  {state.docker_host} ({docker})",
        f"Folder  {status.layout.root}",
        f"Logs    {status.layout.logs}",
    ]
    if not status.healthy:
        lines += ["", "Start what does not run: devopsellence dev up"]
    return lines
