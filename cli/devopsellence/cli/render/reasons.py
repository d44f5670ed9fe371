"""Sentences that records give as the reason of their state: what no other part of a display shows becomes a note.

A reason that reaches nobody costs more than one that is shown twice, so this does not rely on the rest of a display to
know every record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from devopsellence.api.v1.stored_pb2 import NodeProgress
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import anonymous, collapse_ranges, plural

#: Phases in which the controller only sums up what the statuses say, which are shown themselves.
_SUMMARIES: Final = (NodeProgress.PENDING, NodeProgress.CONVERGING)
#: Addition to a sentence, as the exit code in "ended by itself (exit code 3)".
_ADDITION: Final = re.compile(r" \([^()]*\)$")
# Notes shown; beyond that, only their number.
_SHOWN: Final = 10


def unexplained(snapshot: Snapshot, shown: str) -> list[str]:
    """Return a line for each reason in ``snapshot`` that is not in the text ``shown``; equal ones of nodes share a
    line."""
    nodes_by_text: dict[str, list[str]] = {}
    for node, sentence in _reasons(snapshot):
        text = anonymous(safe(sentence), node) if node else safe(sentence)
        if text and not _is_shown(text, shown):
            nodes_by_text.setdefault(text, []).append(node)
    lines = []
    for text, nodes in nodes_by_text.items():
        named = [node for node in nodes if node]
        lines.append(f"{collapse_ranges(named)}: {text}" if named else text)
    more = [f"and {plural(len(lines) - _SHOWN, 'other reason')}"] if len(lines) > _SHOWN else []
    return [*lines[:_SHOWN], *more]


def _is_shown(text: str, shown: str) -> bool:
    """Return True if ``shown`` has a sentence, whatever it names first: a table has nodes and services in columns."""
    parts = text.split(": ")
    endings = [": ".join(parts[start:]) for start in range(min(len(parts), 3))]
    return any(ending in shown or _ADDITION.sub("", ending) in shown for ending in endings)


def _reasons(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Yield the reasons of all records as (node or "", sentence)."""
    if (rollout := snapshot.current) is not None:
        # A rollback's reason begins with that of the failure.
        yield "", rollout.reason.removeprefix(rollout.halted).removeprefix("; ")
        yield "", f"no further node is updated: {rollout.halted}" if rollout.halted else ""
        yield from ((node.node, node.reason) for node in rollout.nodes if node.phase not in _SUMMARIES)
    for node, status in sorted(snapshot.statuses.items()):
        yield node, status.problem
        yield node, status.reason
        yield from ((node, f"{service.name}: {service.reason}") for service in status.services if service.reason)
    for node, heartbeat in sorted((snapshot.heartbeats or {}).items()):
        yield node, heartbeat.problem
