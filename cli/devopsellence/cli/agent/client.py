"""Connection to agents: API addresses, and gRPC channels with mutual TLS.

An operator's certificate for etcd is valid for the agent API as well. The server certificate of an agent must carry the
name derived from the uid of the node (``devopsellence.agent_identity``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import grpc.aio

from devopsellence import input_file
from devopsellence.agent_identity import (
    ACCEPTED_BY,
    API_PORT,
    KEEPALIVE_SECONDS,
    MAX_MESSAGE_BYTES,
    REFUSED_BY,
    api_address,
    server_name,
)
from devopsellence.api.v1.agent_pb2_grpc import AgentStub
from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.cli import reach
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.util.addresses import with_port

if TYPE_CHECKING:
    # Defined only in the stub file.
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

    _Streaming: TypeAlias = grpc.aio.UnaryStreamCall[Any, Any] | grpc.aio.StreamStreamCall[Any, Any]

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.http2.max_pings_without_data", 0),
    # Reconnect quickly, and give up on an agent that does not answer at all.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.min_reconnect_backoff_ms", 5000),
    # A channel per agent and command; connections are not shared.
    ("grpc.use_local_subchannel_pool", 1),
)

# Time limit of a connection with its handshake, in seconds; a machine that is down does not refuse connections.
_CONNECT_SECONDS: Final = 6.0


@dataclass(frozen=True)
class AgentEndpoint:
    """Agent API of a node: ``address`` is ``host:port``; if it is not known or only assumed, ``problem`` says why.

    ``uid`` is the expected uid of the machine; "" if the node is not registered.
    """

    node: str
    uid: str
    address: str
    problem: str = ""


async def find_agents(etcd: Etcd, names: Iterable[str]) -> list[AgentEndpoint]:
    """Return the agent APIs of nodes by :func:`direct_endpoint`, sorted by name; reads node records and heartbeats."""
    keys, reader = etcd.keys, Reader(etcd)
    sorted_names = sorted(set(names))
    nodes = await reader.get_many({name: keys.node(name) for name in sorted_names}, Node)
    beats = await reader.get_many({name: keys.heartbeat(name) for name in sorted_names}, Heartbeat)
    return [direct_endpoint(name, nodes.get(name), beats.get(name)) for name in sorted_names]


def endpoint_of(name: str, node: Node | None, beat: Heartbeat | None) -> AgentEndpoint:
    """Return the agent API of a node; the registered address wins over the address in the heartbeat."""
    if node is None:
        return AgentEndpoint(name, "", "", f"node {name} is not registered, or its record is unreadable")
    if beat is None:
        return AgentEndpoint(
            name, node.uid, "", f"node {name} has no heartbeat: its agent is not running or cannot reach etcd"
        )
    if beat.uid != node.uid:
        problem = f"the agent of node {name} was started for an earlier registration of this name"
        return AgentEndpoint(name, node.uid, "", problem)
    address = api_address(node.address, beat.api_address)
    if not address:
        return AgentEndpoint(
            name, node.uid, "", f"the agent of node {name} has no API (it was started without --api-listen)"
        )
    return AgentEndpoint(name, node.uid, address)


def direct_endpoint(name: str, node: Node | None, beat: Heartbeat | None) -> AgentEndpoint:
    """Return the agent API as :func:`endpoint_of`; without a heartbeat, at the registered address and the usual port.

    The agent of such a node may run, cut off from etcd. ``problem`` stays, for the case that nothing answers.
    """
    endpoint = endpoint_of(name, node, beat)
    if node is None or beat is not None or not node.address:
        return endpoint
    return replace(endpoint, address=with_port(node.address, API_PORT))


def credentials(settings: Settings) -> grpc.ChannelCredentials:
    """Return the TLS credentials for agents: client certificate and certificate authority.

    Raises:
        CliError: ``certificate_missing``: there is no certificate, or the files cannot be read.
    """
    files = (settings.ca_cert, settings.key, settings.cert)
    fix = [NextAction("set your client certificate", "export DEVOPSELLENCE_ETCD_CERT=… DEVOPSELLENCE_ETCD_KEY=…")]
    try:
        authority, key, chain = (input_file.read(path) if path else b"" for path in files)
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror}"
        raise CliError("certificate_missing", message, next_actions=fix) from error
    if not (authority and key and chain):
        message = "agents require an operator's client certificate, but none is set"
        raise CliError("certificate_missing", message, next_actions=fix)
    return grpc.ssl_channel_credentials(authority, key, chain)


@asynccontextmanager
async def connect(settings: Settings, agent: AgentEndpoint) -> AsyncIterator[AgentAsyncStub]:
    """Return a gRPC stub for an agent; connects with the first call, closes at the end of the block.

    Raises:
        CliError: ``agent_unreachable``: the address is not known; ``certificate_missing``; as :func:`reach.target`.
    """
    if not agent.address:
        raise CliError("agent_unreachable", agent.problem)
    options: Sequence[tuple[str, str | int]] = (*_OPTIONS, ("grpc.ssl_target_name_override", server_name(agent.uid)))
    try:
        target = await reach.target(settings, agent.address)
    except reach.UnusableAddress as error:
        raise CliError("agent_unreachable", f"cannot reach the agent of node {agent.node}: {error}") from error
    async with grpc.aio.secure_channel(target, credentials(settings), options=options) as channel:
        # The generated class serves sync and async channels; only the stub file has two classes.
        stub: AgentAsyncStub = AgentStub(channel)
        yield stub


async def wait_accepted(call: _Streaming) -> None:
    """Wait until the agent accepts a call.

    A message sent earlier may cross a refusal; gRPC would then report the failed send instead of the refusal.

    Raises:
        AioRpcError: the agent refused the call, or cannot be reached.
    """
    await call.wait_for_connection()
    if not any(key == ACCEPTED_BY for key, _ in await call.initial_metadata() or ()):
        await call.code()
        # Raises the error of an ended call.
        await call.wait_for_connection()


async def wait_connected(agent: AgentEndpoint, call: _Streaming) -> None:
    """Wait until the agent accepts a call, with the time limit of a connection.

    Raises:
        CliError: ``agent_unreachable``: no connection in time.
        AioRpcError: the call failed at once.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await wait_accepted(call)
    except TimeoutError:
        call.cancel()
        raise _unreachable(agent, f"no connection within {_CONNECT_SECONDS:.0f} s") from None


def _unreachable(agent: AgentEndpoint, details: str) -> CliError:
    message = f"cannot reach the agent of node {agent.node} at {agent.address}: {details}"
    if agent.problem:
        message = f"{agent.problem}; nothing answers at {agent.address}"
    return CliError(
        "agent_unreachable", message, next_actions=[NextAction("see what is wrong", "devopsellence doctor")]
    )


def call_error(agent: AgentEndpoint, error: grpc.aio.AioRpcError) -> CliError:
    """Return the CLI error for a failed call."""
    code, details = error.code(), error.details() or ""
    refused_by_agent = any(key == REFUSED_BY for key, _ in error.trailing_metadata() or ())
    if code is grpc.StatusCode.UNAVAILABLE and not refused_by_agent:
        return _unreachable(agent, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and not refused_by_agent:
        return _unreachable(agent, "it does not answer in time")
    codes = {
        grpc.StatusCode.NOT_FOUND: "not_found",
        grpc.StatusCode.FAILED_PRECONDITION: "not_running",
        grpc.StatusCode.PERMISSION_DENIED: "permission_denied",
        grpc.StatusCode.INVALID_ARGUMENT: "invalid_argument",
        grpc.StatusCode.RESOURCE_EXHAUSTED: "no_room",
        grpc.StatusCode.UNAVAILABLE: "docker_unavailable",
        grpc.StatusCode.UNIMPLEMENTED: "agent_too_old",
    }
    return CliError(codes.get(code, "agent_failed"), f"node {agent.node}: {details or code.name.lower()}")
