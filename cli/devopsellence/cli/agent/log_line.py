"""A line of a container's output, as the command line handles it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.agent_pb2 import LogLine

NANOS: Final = 1_000_000_000
# The end of the year 9999: what a message may hold beyond that is no time.
_LAST: Final = 253_402_300_799


@dataclass(frozen=True, slots=True)
class OutputLine:
    """One line: ``at`` is when the node's engine received it, in nanoseconds since 1970; ``text`` has no line end."""

    node: str
    service: str
    container: str
    stderr: bool
    at: int
    text: bytes


def from_message(node: str, message: LogLine) -> OutputLine:
    """A node's message as a line."""
    at = min(max(0, message.at.seconds), _LAST) * NANOS + message.at.nanos
    return OutputLine(node, message.service, message.container, message.stderr, at, message.line)


def timestamp(at: int) -> Timestamp:
    """Nanoseconds since 1970 as a message."""
    return Timestamp(seconds=at // NANOS, nanos=at % NANOS)
