"""Rows and JSON of entries."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.cli.audit.render import HEADER, document, row, who


def entry(**fields: Any) -> AuditEntry:
    made = AuditEntry(caller="operator:ann", peer="10.0.0.9:4711", summary="deploy release 7", **fields)
    made.at.FromSeconds(1_800_000_000)
    return made


@pytest.mark.parametrize(
    ("fields", "result", "node", "what"),
    [
        ({"outcome": AuditEntry.ALLOWED}, "allowed", "", "deploy release 7"),
        ({"outcome": AuditEntry.REFUSED, "reason": "no role"}, "refused", "", "deploy release 7: no role"),
        ({"outcome": AuditEntry.FAILED, "left_out": 2}, "failed", "", "deploy release 7 (2 left out before it)"),
        (
            {"outcome": AuditEntry.ENDED, "exit_code": 0, "command": ["sh", "-c", "a b"], "reported_by": "n1"},
            "exit 0",
            "n1",
            "deploy release 7: sh -c 'a b'",
        ),
        ({"outcome": AuditEntry.ENDED, "reason": "gone"}, "cut off", "", "deploy release 7: gone"),
        ({}, "unknown", "", "deploy release 7"),
    ],
)
def test_row(fields: dict[str, Any], result: str, node: str, what: str) -> None:
    cells = row(entry(**fields))
    assert len(cells) == len(HEADER)
    assert cells[1:] == ["ann", "10.0.0.9", result, node, what]


@pytest.mark.parametrize(
    ("caller", "node", "shown"),
    [("root", "", "root"), ("node:u1", "n1", "n1"), ("node:u1", "", "node:u1"), ("", "", "-")],
)
def test_caller_in_short(caller: str, node: str, shown: str) -> None:
    assert who(AuditEntry(caller=caller, caller_node=node)) == shown


def test_document_has_every_field() -> None:
    found = document(entry(outcome=AuditEntry.ENDED))
    assert (found["who"], found["from"], found["outcome"], found["exit_code"]) == (
        "ann",
        "10.0.0.9:4711",
        "ended",
        None,
    )
    # Merged by the command, or the same in other words.
    apart = {"peer", "caller_node", "reporter_uid"}
    assert {field.name for field in AuditEntry.DESCRIPTOR.fields} - apart <= found.keys()
