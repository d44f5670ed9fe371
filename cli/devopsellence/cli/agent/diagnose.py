"""Text and JSON of a node diagnosis from the agent. Pure."""

from __future__ import annotations

from typing import Any

from devopsellence.api.v1.agent_pb2 import Check, DiagnoseAnswer
from devopsellence.cli.output import Finding, NextAction, check_sign
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import iso, local_time


def text(answer: DiagnoseAnswer) -> str:
    """Return versions and resources of the node, then every check with how to fix it."""
    since = local_time(answer.started_at) or "-"
    lines = [
        f"Node     {safe(answer.node)} (uid {safe(answer.node_uid)}, host {safe(answer.hostname)})",
        f"Agent    {safe(answer.agent_version)}, {answer.agent_memory_mib} MiB, since {since}",
        f"Docker   {safe(answer.docker_version) or 'unreachable'}",
        f"Disk     {_share(answer.disk_free_mib, answer.disk_total_mib)} free",
        f"Memory   {_share(answer.memory_available_mib, answer.memory_total_mib)} available",
        "",
    ]
    width = max((len(safe(check.name)) for check in answer.checks), default=0)
    for check in answer.checks:
        sign = check_sign("ok" if check.ok else "error")
        lines.append(f"{sign}  {safe(check.name).ljust(width)}  {safe(check.message)}".rstrip())
        lines += [f"      {safe(check.mend)}"] if check.mend and not check.ok else []
    return "\n".join(lines)


def document(answer: DiagnoseAnswer) -> dict[str, Any]:
    """Return the JSON form."""
    return {
        "node": answer.node,
        "node_uid": answer.node_uid,
        "hostname": answer.hostname,
        "agent_version": answer.agent_version,
        "docker_version": answer.docker_version,
        "now": iso(answer.now),
        "started_at": iso(answer.started_at),
        "disk_total_mib": answer.disk_total_mib,
        "disk_free_mib": answer.disk_free_mib,
        "memory_total_mib": answer.memory_total_mib,
        "memory_available_mib": answer.memory_available_mib,
        "agent_memory_mib": answer.agent_memory_mib,
        "checks": [
            {"name": check.name, "ok": check.ok, "message": check.message, "mend": check.mend}
            for check in answer.checks
        ],
    }


def failed(answer: DiagnoseAnswer) -> list[Check]:
    """Return the failed checks."""
    return [check for check in answer.checks if not check.ok]


def finding(check: Check) -> Finding:
    """Return a failed check as part of an error."""
    fix = (NextAction("how to fix it", check.mend),) if check.mend else ()
    return Finding(check.name, f"{check.name}: {check.message}", next_actions=fix)


def _share(part: int, whole: int) -> str:
    percent = f" ({100 * part // whole} %)" if whole else ""
    return f"{part / 1024:.1f} of {whole / 1024:.1f} GiB{percent}"
