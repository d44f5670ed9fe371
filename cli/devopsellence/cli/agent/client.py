"""Reaching agents: where each answers, and a channel to it over mutual TLS.

The certificate that opens etcd opens the agents' API as well, if it is an operator's. An agent must show the
certificate of the very machine that is meant: its name follows from the node's uid (``devopsellence.agent_identity``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import grpc.aio

from devopsellence.agent_identity import (
    KEEPALIVE_SECONDS,
    MAX_MESSAGE_BYTES,
    REFUSED_BY,
    TAKEN_BY,
    answers_at,
    server_name,
)
from devopsellence.api.v1.agent_pb2_grpc import AgentStub
from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.store.reader import Reader

if TYPE_CHECKING:
    # Known to the stub file alone.
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
    # A lost agent is looked for again soon, and one that does not even refuse is given up on.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.min_reconnect_backoff_ms", 5000),
    # One channel for each agent of each command: nothing is shared with another.
    ("grpc.use_local_subchannel_pool", 1),
)

# Seconds for a connection and its handshake: a machine that has gone does not even refuse.
_CONNECT_SECONDS: Final = 6.0


@dataclass(frozen=True)
class AgentEndpoint:
    """A node's agent: ``address`` is ``host:port``, or "" with ``problem`` saying why nobody can be asked.

    ``uid`` is the machine's that must answer there; "" where there is none.
    """

    node: str
    uid: str
    address: str
    problem: str = ""


async def find_agents(etcd: Etcd, names: Iterable[str]) -> list[AgentEndpoint]:
    """Where the agents of these nodes answer, in order of their names. Reads nodes and heartbeats once."""
    keys, reader = etcd.keys, Reader(etcd)
    wanted = sorted(set(names))
    nodes = await reader.get_many({name: keys.node(name) for name in wanted}, Node)
    beats = await reader.get_many({name: keys.heartbeat(name) for name in wanted}, Heartbeat)
    return [endpoint_of(name, nodes.get(name), beats.get(name)) for name in wanted]


def endpoint_of(name: str, node: Node | None, beat: Heartbeat | None) -> AgentEndpoint:
    """Where the agent of one node answers. A node's registered address wins over what its agent says of itself."""
    if node is None:
        return AgentEndpoint(name, "", "", f"node {name} is not registered, or its record cannot be read")
    if beat is None:
        return AgentEndpoint(
            name, node.uid, "", f"node {name} has no heartbeat: its agent is not running or cannot reach etcd"
        )
    if beat.uid != node.uid:
        problem = f"the agent that answers as {name} was started for an earlier registration of that name"
        return AgentEndpoint(name, node.uid, "", problem)
    address = answers_at(node.address, beat.api_address)
    if not address:
        return AgentEndpoint(
            name, node.uid, "", f"the agent of node {name} has no API (it was started without --api-listen)"
        )
    return AgentEndpoint(name, node.uid, address)


def credentials(settings: Settings) -> grpc.ChannelCredentials:
    """What we show to agents, and which authority we believe.

    Raises:
        CliError: ``certificate_missing``: there is no certificate, or its files cannot be read.
    """
    files = (settings.ca_cert, settings.key, settings.cert)
    mend = [NextAction("say which certificate is yours", "export DEVOPSELLENCE_ETCD_CERT=… DEVOPSELLENCE_ETCD_KEY=…")]
    try:
        authority, key, chain = (path.read_bytes() if path else b"" for path in files)
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror}"
        raise CliError("certificate_missing", message, next_actions=mend) from error
    if not (authority and key and chain):
        message = "agents only answer to an operator's certificate, and none is set"
        raise CliError("certificate_missing", message, next_actions=mend)
    return grpc.ssl_channel_credentials(authority, key, chain)


@asynccontextmanager
async def connect(settings: Settings, agent: AgentEndpoint) -> AsyncIterator[AgentAsyncStub]:
    """A stub for one agent; connects with the first call, closes with the block.

    Raises:
        CliError: ``agent_unreachable``: nothing says where it answers; ``certificate_missing``.
    """
    if not agent.address:
        raise CliError("agent_unreachable", agent.problem)
    options: Sequence[tuple[str, str | int]] = (*_OPTIONS, ("grpc.ssl_target_name_override", server_name(agent.uid)))
    async with grpc.aio.secure_channel(agent.address, credentials(settings), options=options) as channel:
        # The generated class is one for both kinds of channel; only its stub file has two.
        stub: AgentAsyncStub = AgentStub(channel)
        yield stub


async def wait_accepted(call: _Streaming) -> None:
    """Wait until an agent has taken a call. What is sent before that may cross a refusal, and gRPC then tells of a
    message that could not be sent in place of the refusal.

    Raises:
        AioRpcError: it has refused, or there is none.
    """
    await call.wait_for_connection()
    if not any(key == TAKEN_BY for key, _ in await call.initial_metadata() or ()):
        await call.code()
        # Of a call that has ended: raises what it ended with.
        await call.wait_for_connection()


async def wait_connected(agent: AgentEndpoint, call: _Streaming) -> None:
    """:func:`taken`, within the time that it takes to get there at most.

    Raises:
        CliError: ``agent_unreachable``: nothing answers there in time.
        AioRpcError: the call failed at once.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await wait_accepted(call)
    except TimeoutError:
        call.cancel()
        raise _unreachable(agent, f"no connection within {_CONNECT_SECONDS:.0f} s") from None


def _unreachable(agent: AgentEndpoint, details: str) -> CliError:
    message = f"the agent of node {agent.node} does not answer at {agent.address}: {details}"
    return CliError(
        "agent_unreachable", message, next_actions=[NextAction("see what is wrong", "devopsellence doctor")]
    )


def call_error(agent: AgentEndpoint, error: grpc.aio.AioRpcError) -> CliError:
    """A failed call as an error for a person."""
    code, details = error.code(), error.details() or ""
    spoke = any(key == REFUSED_BY for key, _ in error.trailing_metadata() or ())
    if code is grpc.StatusCode.UNAVAILABLE and not spoke:
        return _unreachable(agent, details)
    words = {
        grpc.StatusCode.NOT_FOUND: "not_found",
        grpc.StatusCode.FAILED_PRECONDITION: "not_running",
        grpc.StatusCode.PERMISSION_DENIED: "permission_denied",
        grpc.StatusCode.INVALID_ARGUMENT: "invalid_argument",
        grpc.StatusCode.RESOURCE_EXHAUSTED: "no_room",
        grpc.StatusCode.UNAVAILABLE: "docker_unavailable",
        grpc.StatusCode.UNIMPLEMENTED: "agent_too_old",
    }
    return CliError(words.get(code, "agent_failed"), f"node {agent.node}: {details or code.name.lower()}")
