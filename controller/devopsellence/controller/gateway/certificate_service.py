"""The Certificates service: signs and records certificates of nodes, their routers and operators."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Sequence
from typing import Any, Final

import grpc.aio
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from devopsellence.access.policy import AccessPolicy
from devopsellence.agent_identity import OPERATOR_PREFIX
from devopsellence.api.v1.certificates_pb2 import JoinRequest, RenewRequest, SignedCertificate, SignRequest
from devopsellence.api.v1.certificates_pb2_grpc import CertificatesServicer
from devopsellence.api.v1.stored_pb2 import UsedJoinToken
from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateRequest
from devopsellence.certificates.facts import unit
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.certificates.pem import CertificateError
from devopsellence.certificates.request import InvalidRequest, key_in
from devopsellence.controller.gateway.admission import Admission, AdmittedCall
from devopsellence.controller.gateway.certificate_records import CertificateRecords, record_of
from devopsellence.controller.gateway.rules import signing
from devopsellence.controller.gateway.rules.grants import KeyRange
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused, invalid
from devopsellence.controller.gateway.upstream import Upstream
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.names import NAME
from devopsellence.store.keys import Keys

#: Attempts of a join: between two of them the record of the node has changed, or the token was used.
_ATTEMPTS: Final = 5
_Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger("gateway")


class CertificateService(CertificatesServicer):
    """The Certificates service. The files of the authority are read for each certificate, so they can be replaced."""

    def __init__(self, admission: Admission, upstream: Upstream, keys: Keys, files: IssuingFiles) -> None:
        self._admission = admission
        self._records = CertificateRecords(upstream, keys)
        self._files = files

    async def Renew(self, request: RenewRequest, context: _Context) -> SignedCertificate:  # noqa: N802
        async with self._admission.admitted(context, "Renew", request) as call:
            _check_renewable(context)
            subject = signing.own_subject(call.caller)
            return await self._signed_and_recorded(call, subject, request.csr, None)

    async def RenewRouter(self, request: RenewRequest, context: _Context) -> SignedCertificate:  # noqa: N802
        async with self._admission.admitted(context, "RenewRouter", request) as call:
            return await self._signed_and_recorded(call, signing.router_subject(call.caller), request.csr, None)

    async def Sign(self, request: SignRequest, context: _Context) -> SignedCertificate:  # noqa: N802
        async with self._admission.admitted(context, "Sign", request) as call:
            self._admission.identities.check_current()
            _check_renewable(context)
            # Before anything is read for the caller.
            signing.check_signs_for_others(call.caller)
            asked = request.life.ToTimedelta() if request.HasField("life") else None
            node = await self._node_of(call, request.identity)
            policy = await self._policy_for(call, request.identity)
            subject = signing.subject_for(
                call.caller, request.identity, policy, lambda _: node, fixed_term=asked is not None
            )
            life = signing.granted_life(subject, asked)
            return await self._signed_and_recorded(call, subject, request.csr, life)

    async def Join(self, request: JoinRequest, context: _Context) -> SignedCertificate:  # noqa: N802
        async with self._admission.admitted(context, "Join", request) as call:
            call.limits.check_signature(asyncio.get_running_loop().time())
            key = _checked_key(request.csr)
            if not NAME.match(request.node):
                raise invalid("the name of the node is malformed")
            for _ in range(_ATTEMPTS):
                used = await self._records.used_join_token(call.serial, call.seconds)
                if used is not None and (chain := signing.check_unused(used, key)) is not None:
                    # The first call may have ended before it was noted.
                    mark = self._records.mark(call.serial, used)
                    self._note(call, subjects.node(request.node, call.caller.uid), [mark])
                    return SignedCertificate(chain=chain)
                node, revision = await self._records.node(request.node, call.seconds)
                signing.check_joinable(call.caller, node)
                subject = subjects.node(request.node, call.caller.uid)
                chain, root = await self._sign(subject, key, subject.life)
                used = UsedJoinToken(node=request.node, uid=call.caller.uid, chain=chain.decode())
                used.used_at.FromDatetime(datetime.datetime.now(datetime.UTC))
                record = record_of(subject, chain, root, call.caller.identity, call.serial)
                puts = await self._records.write_joined(record, call.serial, used, revision, call.seconds)
                if puts:
                    self._note(call, subject, puts)
                    return SignedCertificate(chain=chain)
            raise Refused(RefusalKind.NOT_NOW, "the record of the node keeps changing")

    async def _node_of(self, call: AdmittedCall, identity: str) -> str:
        """Return the name of the node that an identity is of; "" for none."""
        if not (uid := signing.uid_in(identity)):
            return ""
        known = self._admission.identities.node_with_uid(uid)
        return known or await self._records.node_with_uid(uid, call.seconds)

    async def _policy_for(self, call: AdmittedCall, identity: str) -> AccessPolicy:
        """Return the policy with the newest access of the operator that an identity is of."""
        policy = self._admission.identities.policy
        operator = identity.removeprefix(OPERATOR_PREFIX)
        if operator == identity or not NAME.match(operator):
            return policy
        access = await self._records.operator(operator, call.seconds)
        return AccessPolicy({operator: access} if access is not None else {}, policy.denied)

    async def _signed_and_recorded(
        self, call: AdmittedCall, subject: CertificateRequest, csr: bytes, life: datetime.timedelta | None
    ) -> SignedCertificate:
        call.limits.check_signature(asyncio.get_running_loop().time())
        chain, root = await self._sign(subject, _checked_key(csr), life)
        # First the record: no certificate is unknown.
        record = record_of(subject, chain, root, call.caller.identity, call.serial)
        self._note(call, subject, [await self._records.write(record, call.seconds)])
        return SignedCertificate(chain=chain)

    async def _sign(
        self, subject: CertificateRequest, key: ec.EllipticCurvePublicKey, life: datetime.timedelta | None
    ) -> tuple[bytes, x509.Certificate]:
        """Return the certificate and the root that it is signed under."""

        def sign() -> tuple[bytes, x509.Certificate]:
            authority = self._files.load()
            return authority.sign(subject, key, datetime.datetime.now(datetime.UTC), life), authority.root

        try:
            return await asyncio.to_thread(sign)
        except CertificateError as error:
            _log.error("certificates cannot be signed", problem=str(error))
            reason = "the authority of this gateway cannot sign; see the controller's log"
            raise Refused(RefusalKind.NOT_NOW, reason) from error

    def _note(self, call: AdmittedCall, subject: CertificateRequest, puts: Sequence[rpc.PutRequest]) -> None:
        keys = [KeyRange(put.key) for put in puts]
        self._admission.audit.written(call.source, call.method, keys, subject.common_name, puts)


def _checked_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return key_in(csr)
    except InvalidRequest as error:
        raise invalid(str(error)) from error


def _check_renewable(context: _Context) -> None:
    """Refuse a caller whose certificate is for a fixed term."""
    for pem in context.auth_context().get("x509_pem_cert") or ():
        signing.check_renewable(unit(x509.load_pem_x509_certificate(pem)))
