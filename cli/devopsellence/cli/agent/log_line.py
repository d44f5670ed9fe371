"""Line of a container's output, and conversion of its timestamp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.agent_pb2 import LogLine

NANOS: Final = 1_000_000_000
# End of the year 9999, the maximum of a protobuf timestamp.
_LAST: Final = 253_402_300_799


@dataclass(frozen=True, slots=True)
class OutputLine:
    """Line of output; ``at`` is Docker's timestamp in nanoseconds since 1970, ``text`` has no line end."""

    node: str
    service: str
    container: str
    stderr: bool
    at: int
    text: bytes


def from_message(node: str, message: LogLine) -> OutputLine:
    """Return a line from the message of a node."""
    at = min(max(0, message.at.seconds), _LAST) * NANOS + message.at.nanos
    return OutputLine(node, message.service, message.container, message.stderr, at, message.line)


def timestamp(at: int) -> Timestamp:
    """Return a protobuf timestamp from nanoseconds since 1970."""
    return Timestamp(seconds=at // NANOS, nanos=at % NANOS)
