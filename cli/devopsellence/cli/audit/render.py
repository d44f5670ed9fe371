"""Entries of the audit trail as rows of a table and as JSON. Pure."""

from __future__ import annotations

import shlex
from typing import Any, Final

from devopsellence.agent_identity import OPERATOR_PREFIX
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.cli.util.text import iso, local_time, word

HEADER: Final = ("TIME", "WHO", "FROM", "RESULT", "NODE", "WHAT")


def who(entry: AuditEntry) -> str:
    """Return the caller in short: the name of an operator or node, else the name in the certificate."""
    return entry.caller_node or entry.caller.removeprefix(OPERATOR_PREFIX) or "-"


def row(entry: AuditEntry) -> list[str]:
    """Return the cells of an entry; NODE is the node that reported it."""
    return [local_time(entry.at) or "-", who(entry), _host(entry.peer), _result(entry), entry.reported_by, _what(entry)]


def _host(peer: str) -> str:
    host, _, port = peer.rpartition(":")
    return host if host and port.isdigit() else peer or "-"


def _result(entry: AuditEntry) -> str:
    if entry.outcome == AuditEntry.ENDED:
        return f"exit {entry.exit_code}" if entry.HasField("exit_code") else "cut off"
    return word(AuditEntry.Outcome, entry.outcome)


def _what(entry: AuditEntry) -> str:
    parts = [entry.summary or entry.call]
    parts += [shlex.join(entry.command)] if entry.command else []
    parts += [entry.reason] if entry.reason else []
    left_out = f" ({entry.left_out} left out before it)" if entry.left_out else ""
    return ": ".join(parts) + left_out


def document(entry: AuditEntry) -> dict[str, Any]:
    """Return the JSON form of an entry."""
    return {
        "id": entry.id,
        "at": iso(entry.at),
        "who": who(entry),
        "caller": entry.caller,
        "serial": entry.serial,
        "from": entry.peer,
        "outcome": word(AuditEntry.Outcome, entry.outcome),
        "call": entry.call,
        "summary": entry.summary,
        "reason": entry.reason,
        "environments": list(entry.environments),
        "nodes": list(entry.nodes),
        "services": list(entry.services),
        "command": list(entry.command),
        "exit_code": entry.exit_code if entry.HasField("exit_code") else None,
        "begin": entry.begin,
        "keys": list(entry.keys),
        "left_out": entry.left_out,
        "reported_by": entry.reported_by,
        "node_time": iso(entry.node_time),
    }
