from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.agent_pb2 import LogLine
from devopsellence.cli.agent.log_line import NANOS, from_message, timestamp


def test_time_survives_conversion_to_nanoseconds_and_back() -> None:
    message = LogLine(service="web", container="c", line=b"hello", at=Timestamp(seconds=5, nanos=7))
    line = from_message("n1", message)
    assert (line.node, line.at, line.text) == ("n1", 5 * NANOS + 7, b"hello")
    assert timestamp(line.at) == message.at


def test_time_out_of_range_is_limited() -> None:
    late = LogLine(at=Timestamp(seconds=1 << 60))
    early = LogLine(at=Timestamp(seconds=-5))
    assert timestamp(from_message("n1", late).at).ToJsonString().startswith("9999-12-31")
    assert from_message("n1", early).at == 0
