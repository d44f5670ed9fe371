"""The server under the API: where it listens, whom it believes, and how it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import grpc.aio
import structlog

from devopsellence.agent_identity import KEEPALIVE_SECONDS, MAX_MESSAGE_BYTES, server_name
from devopsellence.api.v1.agent_pb2_grpc import (
    AgentServicer,
    PeersServicer,
    add_AgentServicer_to_server,
    add_PeersServicer_to_server,
)
from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.nodeagent.api.diagnose import Diagnosis
from devopsellence.nodeagent.api.images import ImageService
from devopsellence.nodeagent.api.peers import PeerService
from devopsellence.nodeagent.api.run_task import discard_leftovers
from devopsellence.nodeagent.api.service import AgentService
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.errors import EngineError
from devopsellence.nodeagent.secrets import Vault
from devopsellence.nodeagent.tls import CertificateProblem, Certificates, Files, expires
from devopsellence.nodeagent.util.threads import ThreadPool

#: Each call may hold some hundred KiB; more at a time are refused.
MAX_CALLS: Final = 64
#: At a clean end, for commands that nobody waits for any more.
END_SECONDS: Final = 3.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A caller that has gone without a word is found, also when its call is silent.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Callers may ask as often whether this end is there.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 500),
    # Otherwise a second agent could listen at the same address, and callers reach either.
    ("grpc.so_reuseport", 0),
)
_log = structlog.get_logger()


class ApiError(Exception):
    """The API cannot be served; says why."""


@dataclass(frozen=True)
class ListenOptions:
    """``address`` is ``host:port`` to listen at, ``advertise`` what others are told (empty: the same)."""

    address: str
    advertise: str
    files: Files


class ApiServer:
    """Has its port from the beginning, so that ``address`` is known; answers once it is started.

    ``beat`` is what the agent says of itself: its node, uid, version and start.

    Raises:
        ApiError: the address is taken, or the certificate cannot be used.
    """

    def __init__(
        self,
        listen: ListenOptions,
        state_dir: Path,
        beat: Heartbeat,
        engine: DockerEngine,
        assignments: Assignments,
        vault: Vault,
        images: ImageService,
    ) -> None:
        self._uid = beat.uid
        self._files = listen.files
        self._engine = engine
        self._threads = ThreadPool(2, "api")
        diagnosis = Diagnosis(beat, engine, assignments, listen.files, state_dir, self._threads)
        self._service = AgentService(beat.node, engine, assignments, vault, images, diagnosis)
        self._peers = PeerService(beat.node, engine, assignments)
        self._clearing: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        try:
            credentials = Certificates(listen.files).credentials()
            port = self._server.add_secure_port(listen.address, credentials)
        except CertificateProblem as problem:
            raise ApiError(f"the API has no certificate to answer with: {problem}") from problem
        except RuntimeError as error:
            raise ApiError(f"the API cannot listen at {listen.address}: is another program there?") from error
        #: What to tell others.
        self.address = listen.advertise or f"{listen.address.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Answer calls."""
        # The generated base class knows only methods that yield; these write, which waits for the caller to take it.
        add_AgentServicer_to_server(cast("AgentServicer", self._service), self._server)
        add_PeersServicer_to_server(cast("PeersServicer", self._peers), self._server)
        await self._server.start()
        _log.info("the API answers", address=self.address)
        try:
            await self._threads.run(lambda: expires(self._files, server_name(self._uid)))
        except CertificateProblem as problem:
            _log.warning("callers will not believe this agent", problem=str(problem))

    def engine_connected(self) -> None:
        """The engine can be used (again): the first time, what an earlier agent left on it is removed."""
        if self._clearing is None:
            self._clearing = asyncio.create_task(self._clear())

    async def stop(self) -> None:
        """End all calls."""
        await self._server.stop(None)
        await self._service.close(END_SECONDS)
        if self._clearing is not None:
            self._clearing.cancel()

    async def _clear(self) -> None:
        try:
            await discard_leftovers(self._engine, self._uid)
        except EngineError as error:
            _log.warning("what was left behind could not be removed", error=str(error))
