from __future__ import annotations

import grpc
import grpc.aio
import pytest

from devopsellence.agent_identity import REFUSED_BY
from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.cli.agent.client import AgentEndpoint, call_error, direct_endpoint, endpoint_of

NODE = Node(name="n1", uid="u")
AGENT = AgentEndpoint("n1", "u", "10.0.0.1:7443")


def beat(address: str, uid: str = "u") -> Heartbeat:
    return Heartbeat(node="n1", uid=uid, api_address=address)


@pytest.mark.parametrize(
    ("address", "reported", "expected"),
    [
        ("", "10.0.0.1:7443", "10.0.0.1:7443"),
        ("192.0.2.7", "10.0.0.1:7443", "192.0.2.7:7443"),
        ("2001:db8::7", "10.0.0.1:7443", "[2001:db8::7]:7443"),
        ("", "[::1]:7443", "[::1]:7443"),
    ],
)
def test_registered_address_wins_over_reported_address(address: str, reported: str, expected: str) -> None:
    assert endpoint_of("n1", Node(name="n1", uid="u", address=address), beat(reported)) == AgentEndpoint(
        "n1", "u", expected
    )


@pytest.mark.parametrize(
    ("node", "heartbeat", "problem"),
    [
        (None, None, "is not registered"),
        (NODE, None, "has no heartbeat"),
        (NODE, beat("10.0.0.1:7443", uid="other"), "for an earlier registration of this name"),
        (NODE, beat(""), "has no API"),
    ],
)
def test_unreachable_agent_has_a_reason(node: Node | None, heartbeat: Heartbeat | None, problem: str) -> None:
    endpoint = endpoint_of("n1", node, heartbeat)
    assert endpoint.address == ""
    assert problem in endpoint.problem


def test_agent_without_heartbeat_is_asked_at_the_registered_address() -> None:
    node = Node(name="n1", uid="u", address="2001:db8::7")
    endpoint = direct_endpoint("n1", node, None)
    assert (endpoint.address, endpoint.uid) == ("[2001:db8::7]:7443", "u")
    error = call_error(
        endpoint, grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
    )
    assert error.message == f"{endpoint.problem}; nothing answers at [2001:db8::7]:7443"
    for heartbeat in (beat("", uid="other"), beat("10.0.0.1:7443")):
        assert direct_endpoint("n1", node, heartbeat) == endpoint_of("n1", node, heartbeat)
    assert direct_endpoint("n1", NODE, None) == endpoint_of("n1", NODE, None)


@pytest.mark.parametrize(
    ("status", "by_agent", "code", "message"),
    [
        (grpc.StatusCode.NOT_FOUND, True, "not_found", "node n1: why"),
        (grpc.StatusCode.UNAVAILABLE, True, "docker_unavailable", "node n1: why"),
        (
            grpc.StatusCode.UNAVAILABLE,
            False,
            "agent_unreachable",
            "cannot reach the agent of node n1 at 10.0.0.1:7443: why",
        ),
        (grpc.StatusCode.DATA_LOSS, True, "agent_failed", "node n1: why"),
    ],
)
def test_agent_refusal_differs_from_network_error(
    status: grpc.StatusCode, by_agent: bool, code: str, message: str
) -> None:
    trailing = grpc.aio.Metadata((REFUSED_BY, "n1")) if by_agent else grpc.aio.Metadata()
    error = call_error(AGENT, grpc.aio.AioRpcError(status, grpc.aio.Metadata(), trailing, "why"))
    assert (error.code, error.message) == (code, message)
