"""The Certificates service: signs and records certificates of nodes, their routers and operators."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any, Final

import grpc.aio
import structlog
from cryptography import x509

from devopsellence.access.denied import serial_text
from devopsellence.api.v1.certificates_pb2 import RenewRequest, SignedCertificate, SignRequest
from devopsellence.api.v1.certificates_pb2_grpc import CertificatesServicer
from devopsellence.api.v1.stored_pb2 import IssuedCertificate
from devopsellence.certificates.authority import (
    CertificateError,
    CertificateRequest,
    fingerprint,
    life_of,
    unit,
)
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.certificates.request import InvalidRequest, key_in
from devopsellence.controller.gateway.admission import Admission, AdmittedCall
from devopsellence.controller.gateway.rules.grants import KeyRange
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused, invalid
from devopsellence.controller.gateway.rules.signing import (
    check_renewable,
    granted_life,
    own_subject,
    router_subject,
    subject_for,
)
from devopsellence.controller.gateway.upstream import Upstream
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.codec import encode
from devopsellence.store.keys import Keys

#: Time that the record of a certificate outlives it.
_KEPT: Final = datetime.timedelta(days=30)
_Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger("gateway")


class CertificateService(CertificatesServicer):
    """The Certificates service. The files of the authority are read for each certificate, so they can be replaced."""

    def __init__(self, admission: Admission, upstream: Upstream, keys: Keys, files: IssuingFiles) -> None:
        self._admission = admission
        self._upstream = upstream
        self._keys = keys
        self._files = files

    async def Renew(self, request: RenewRequest, context: _Context) -> SignedCertificate:  # noqa: N802
        async with self._admission.admitted(context, "Renew", request) as call:
            _check_renewable(context)
            return await self._signed(call, own_subject(call.caller), request.csr, None)

    async def RenewRouter(self, request: RenewRequest, context: _Context) -> SignedCertificate:  # noqa: N802
        async with self._admission.admitted(context, "RenewRouter", request) as call:
            return await self._signed(call, router_subject(call.caller), request.csr, None)

    async def Sign(self, request: SignRequest, context: _Context) -> SignedCertificate:  # noqa: N802
        async with self._admission.admitted(context, "Sign", request) as call:
            identities = self._admission.identities
            identities.check_current()
            _check_renewable(context)
            asked = request.life.ToTimedelta() if request.HasField("life") else None
            subject = subject_for(
                call.caller,
                request.identity,
                identities.policy,
                identities.node_with_uid,
                fixed_term=asked is not None,
            )
            return await self._signed(call, subject, request.csr, granted_life(asked))

    async def _signed(
        self, call: AdmittedCall, subject: CertificateRequest, csr: bytes, life: datetime.timedelta | None
    ) -> SignedCertificate:
        call.limits.check_signature(asyncio.get_running_loop().time())
        try:
            chain, root = await asyncio.to_thread(self._sign, subject, csr, life)
        except InvalidRequest as error:
            raise invalid(str(error)) from error
        except CertificateError as error:
            _log.error("certificates cannot be signed", problem=str(error))
            reason = "the authority of this gateway cannot sign; see the controller's log"
            raise Refused(RefusalKind.NOT_NOW, reason) from error
        # First the record: no certificate is unknown.
        put = await self._record(call, subject, chain, root)
        keys = [KeyRange(put.key)]
        self._admission.audit.written(call.source, call.method, keys, subject.common_name, [put])
        return SignedCertificate(chain=chain)

    def _sign(
        self, subject: CertificateRequest, csr: bytes, life: datetime.timedelta | None
    ) -> tuple[bytes, x509.Certificate]:
        """Return the certificate and the root that it is signed under."""
        key = key_in(csr)
        authority = self._files.load()
        return authority.sign(subject, key, datetime.datetime.now(datetime.UTC), life), authority.root

    async def _record(
        self, call: AdmittedCall, subject: CertificateRequest, chain: bytes, root: x509.Certificate
    ) -> rpc.PutRequest:
        """Write the record of a certificate, which etcd deletes a month after the end; return the write."""
        certificate = x509.load_pem_x509_certificate(chain)
        life = life_of(certificate)
        record = IssuedCertificate(
            serial=serial_text(certificate.serial_number),
            identity=subject.common_name,
            node=subject.unit,
            issued_by=call.caller.identity,
            issued_by_serial=call.serial,
            authority=fingerprint(root),
        )
        record.not_before.FromDatetime(life.begins)
        record.not_after.FromDatetime(life.ends)
        left = life.ends - datetime.datetime.now(datetime.UTC) + _KEPT
        granted = await self._upstream.lease_grant(rpc.LeaseGrantRequest(TTL=int(left.total_seconds())), call.seconds)
        key = self._keys.issued_certificate(record.serial).encode()
        put = rpc.PutRequest(key=key, value=encode(record), lease=granted.ID)
        await self._upstream.put(put, call.seconds)
        return put


def _check_renewable(context: _Context) -> None:
    """Refuse a caller whose certificate is for a fixed term."""
    for pem in context.auth_context().get("x509_pem_cert") or ():
        check_renewable(unit(x509.load_pem_x509_certificate(pem)))
