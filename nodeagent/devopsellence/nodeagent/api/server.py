"""gRPC server of the API: address, certificates, limits and shutdown."""

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
from devopsellence.nodeagent.api.admission import CallAdmission
from devopsellence.nodeagent.api.audit import AuditSink
from devopsellence.nodeagent.api.diagnose import Diagnosis
from devopsellence.nodeagent.api.images import ImageService
from devopsellence.nodeagent.api.peers import PeerService
from devopsellence.nodeagent.api.rights import CallRights, NodeAccess
from devopsellence.nodeagent.api.run_task import discard_leftovers
from devopsellence.nodeagent.api.service import AgentService
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.errors import EngineError
from devopsellence.nodeagent.log_archive import LogArchive
from devopsellence.nodeagent.secrets import SecretDecrypter
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.server_certificate import (
    CertificateFiles,
    CertificateProblem,
    certificate_expiry,
    open_port,
)

#: Limit of concurrent calls of all callers, against lack of memory: what counts is the limit of each caller
#: (``admission``), beyond which calls end at once.
MAX_CALLS: Final = 1024
#: Limit of connections, against lack of memory and file descriptors.
MAX_CONNECTIONS: Final = 4096
#: Longest time until a connection has done its TLS handshake, and until one without calls is closed.
HANDSHAKE_SECONDS: Final = 5
IDLE_SECONDS: Final = 60
#: Limit of concurrent calls on a connection: gRPC's clients let further calls wait.
_STREAMS: Final = 100
#: Limit for ending abandoned commands at shutdown.
SHUTDOWN_SECONDS: Final = 3.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Detects callers that vanished, even during a silent call.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Callers may ping as often.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.max_concurrent_streams", _STREAMS),
    # Otherwise a second agent could listen on the same address, and callers would reach either.
    ("grpc.so_reuseport", 0),
)
_log = structlog.get_logger()


@dataclass(frozen=True)
class ListenOptions:
    """``address``: ``host:port`` to listen on. ``advertise``: address for callers (empty: the same)."""

    address: str
    advertise: str
    files: CertificateFiles


class ApiServer:
    """The API server. The port is opened at once, so that ``address`` is known; calls are answered after :meth:`start`.

    ``beat``: the agent's heartbeat with node, uid, version and start time.

    Raises:
        ListenProblem: the address is in use, or the certificate cannot be used.
    """

    def __init__(
        self,
        listen: ListenOptions,
        state_dir: Path,
        beat: Heartbeat,
        engine: DockerEngine,
        assignments: Assignments,
        decrypter: SecretDecrypter,
        images: ImageService,
        access: NodeAccess,
        audit: AuditSink,
    ) -> None:
        self._uid = beat.uid
        self._files = listen.files
        self._engine = engine
        self._threads = ThreadPool(2, "api")
        #: Rights of callers; to be told of changed access.
        self.rights = CallRights(access)
        diagnosis = Diagnosis(beat, engine, access.state, assignments, listen.files, state_dir, self._threads)
        archive = LogArchive(state_dir / "logs")
        self._service = AgentService(
            beat.node, engine, assignments, decrypter, images, diagnosis, archive, self.rights, audit
        )
        self._peers = PeerService(beat.node, engine, assignments, self.rights)
        self._cleanup: asyncio.Task[None] | None = None
        admission = CallAdmission(beat.node, self.rights, self._service.audit)
        self._server = grpc.aio.server(interceptors=(admission,), options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        opened = open_port(self._server, "the API", listen.address, listen.files)
        #: Advertised address.
        self.address = listen.advertise or opened

    async def start(self) -> None:
        """Start answering calls."""
        # The generated base class expects generators; these methods write instead, which waits for the caller to read.
        add_AgentServicer_to_server(cast("AgentServicer", self._service), self._server)
        add_PeersServicer_to_server(cast("PeersServicer", self._peers), self._server)
        await self._server.start()
        _log.info("API started", address=self.address)
        try:
            await self._threads.run(lambda: certificate_expiry(self._files, server_name(self._uid)))
        except CertificateProblem as problem:
            _log.warning("callers will reject the certificate of this agent", problem=str(problem))

    def engine_connected(self) -> None:
        """Remove containers left by an earlier agent, on the first connection to the engine."""
        if self._cleanup is None:
            self._cleanup = asyncio.create_task(self._remove_leftovers())

    async def stop(self) -> None:
        """End all calls."""
        await self._server.stop(None)
        await self._service.close(SHUTDOWN_SECONDS)
        if self._cleanup is not None:
            self._cleanup.cancel()

    async def _remove_leftovers(self) -> None:
        try:
            await discard_leftovers(self._engine)
        except EngineError as error:
            _log.warning("cannot remove containers of abandoned tasks", error=str(error))
