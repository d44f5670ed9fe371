"""The gateway's gRPC server: address, certificate, services and shutdown."""

from __future__ import annotations

import asyncio
import resource
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
import grpc.aio
import structlog

from devopsellence.api.v1.audit_pb2_grpc import AuditServicer, add_AuditServicer_to_server
from devopsellence.api.v1.certificates_pb2_grpc import add_CertificatesServicer_to_server
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.clock import now
from devopsellence.controller.gateway.admission import Admission
from devopsellence.controller.gateway.audit.log import AuditLog
from devopsellence.controller.gateway.audit.trail import AuditOptions, AuditTrail
from devopsellence.controller.gateway.audit_service import AuditService
from devopsellence.controller.gateway.identities import Identities
from devopsellence.controller.gateway.keepalives import Keepalives
from devopsellence.controller.gateway.kv import KeyValueService
from devopsellence.controller.gateway.lease_service import LeaseService
from devopsellence.controller.gateway.rules import policy
from devopsellence.controller.gateway.upstream import Upstream
from devopsellence.controller.gateway.watch import WatchService
from devopsellence.controller.gateway.watch_hub import WatchHub
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.etcd.v3.etcd_pb2_grpc import (
    LeaseServicer,
    MaintenanceServicer,
    WatchServicer,
    add_KVServicer_to_server,
    add_LeaseServicer_to_server,
    add_MaintenanceServicer_to_server,
    add_WatchServicer_to_server,
)
from devopsellence.server_certificate import (
    CertificateFiles,
    CertificateProblem,
    certificate_expiry,
    open_port,
)
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import ETCD_SERVER_NAME, Settings

_STOP_SECONDS: Final = 1.0
_OPTIONS: Final = (
    # etcd's limit of a request is 1.5 MiB.
    ("grpc.max_receive_message_length", 2 << 20),
    ("grpc.max_send_message_length", -1),
    # What one connection may have in flight; further calls wait at the caller. Without the second, calls beyond are
    # reset instead: a server counts a call until its memory is free (observed with grpcio 1.85, 5,000 calls at once).
    ("grpc.max_concurrent_streams", 512),
    ("grpc.http.overload_protection", 0),
    # Finds callers that vanished, so that their watches end. The store's client pings every 10 s, which counts: a ping
    # of the gateway's own for each connection would be as many again.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 4_000),
    # A client of 100 that pinged as agreed was cut off for too many pings when the machine was busy.
    ("grpc.http2.max_ping_strikes", 0),
    # Buffer of each connection for what it sends, 16 KiB by default; a larger message takes several records of TLS.
    ("grpc.tsi.max_frame_size", 4_096),
    # Otherwise another program could listen on the same address.
    ("grpc.so_reuseport", 0),
)
_log = structlog.get_logger("gateway")


@dataclass(frozen=True)
class GatewayOptions:
    """``listen``: ``host:port``. ``files``: server certificate of the gateway, and the authority of its callers.

    ``advertise``: address to announce to agents; empty: made of ``listen``. ``issuing``: authority that signs
    certificates; None: none are signed. ``audit``: None to keep no audit trail.
    """

    listen: str
    files: CertificateFiles
    advertise: str = ""
    issuing: IssuingFiles | None = None
    audit: AuditOptions | None = None


class Gateway:
    """The gateway. The port is opened at once, so that ``address`` is known; calls are answered by :meth:`run`.

    Raises:
        ListenProblem: the address is in use, or the certificate cannot be used.
    """

    def __init__(self, options: GatewayOptions, settings: Settings, etcd: Etcd) -> None:
        self._upstream = Upstream(settings)
        self._keys = etcd.keys
        self._keepalives = Keepalives(self._upstream)
        self._hub = WatchHub(self._upstream, etcd.keys.prefix.encode())
        self.identities = Identities(etcd, self._access_changed)
        self._trail = AuditTrail(options.audit, now) if options.audit is not None else None
        self._admission = Admission(self.identities, AuditLog(etcd.keys, self._trail))
        self._watch = WatchService(self._admission, self._upstream, self._hub)
        self._server = grpc.aio.server(options=_OPTIONS)
        self._files = options.files
        self._issuing = options.issuing
        #: Address that was opened.
        self.address = open_port(self._server, "the gateway", options.listen, options.files)

    async def run(self) -> None:
        """Answer calls until cancelled."""
        _allow_many_connections()
        # The trail ends last: the calls that end before it are in it.
        async with self._upstream, self._trail or nullcontext(), asyncio.TaskGroup() as tasks:
            tasks.create_task(self.identities.run())
            tasks.create_task(self._hub.run())
            # Calls before that are refused as not processed.
            self._register()
            await self._server.start()
            _log.info("gateway started", address=self.address)
            try:
                await self._warn_of_certificate()
                # Not the server's own wait, whose cancellation would keep it from waiting for calls when it stops.
                await asyncio.get_running_loop().create_future()
            finally:
                await self._server.stop(_STOP_SECONDS)
                self._keepalives.close()

    @property
    def watchers(self) -> int:
        """Return the number of watches that the hub serves."""
        return self._hub.watchers

    async def ready(self) -> None:
        """Return once the callers are known and the hub watches etcd."""
        await self.identities.synced()
        await self._hub.connected()

    def _register(self) -> None:
        add_KVServicer_to_server(KeyValueService(self._admission, self._upstream, self._keys), self._server)
        leases = LeaseService(self._admission, self._upstream, self._keepalives)
        add_LeaseServicer_to_server(cast("LeaseServicer", leases), self._server)
        add_WatchServicer_to_server(cast("WatchServicer", self._watch), self._server)
        if self._issuing is not None:
            from devopsellence.controller.gateway.certificate_service import CertificateService

            certificates = CertificateService(self._admission, self._upstream, self._keys, self._issuing)
            add_CertificatesServicer_to_server(certificates, self._server)
        add_AuditServicer_to_server(cast("AuditServicer", AuditService(self._admission, self._trail)), self._server)
        add_MaintenanceServicer_to_server(StatusService(self._admission, self._upstream), self._server)

    def _access_changed(self) -> None:
        self._watch.access_changed()
        if self._trail is not None:
            self._trail.wake_followers()

    async def _warn_of_certificate(self) -> None:
        try:
            await asyncio.to_thread(certificate_expiry, self._files, ETCD_SERVER_NAME)
        except CertificateProblem as problem:
            _log.warning("callers will reject the certificate of this gateway", problem=str(problem))


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1,024, to the hard limit: each node connects to every gateway."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class StatusService(MaintenanceServicer):
    """The one method of etcd's Maintenance service that clients need: the status of a member."""

    def __init__(self, admission: Admission, upstream: Upstream) -> None:
        self._admission = admission
        self._upstream = upstream

    async def Status(  # noqa: N802
        self, request: rpc.StatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> rpc.StatusResponse:
        async with self._admission.admitted(context, "Status") as call:
            policy.check_understood(request)
            answer = await self._upstream.status(request, call.seconds)
            self._admission.note_read(call)
        return answer
