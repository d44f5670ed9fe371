"""Records that the Certificates service reads and writes, at etcd itself.

The caches of a gateway follow etcd a moment later: whoever has just registered a node or added an operator, and has a
certificate signed next, would be told that there is none.
"""

from __future__ import annotations

import datetime
from typing import Final, TypeVar

from cryptography import x509
from google.protobuf.message import Message

from devopsellence.access.denied import serial_text
from devopsellence.agent_identity import JOIN_PREFIX
from devopsellence.api.v1.stored_pb2 import IssuedCertificate, Node, OperatorAccess, UsedJoinToken
from devopsellence.certificates.authority import CertificateRequest
from devopsellence.certificates.facts import fingerprint, life_of
from devopsellence.certificates.subjects import FIXED_TERM
from devopsellence.controller.gateway.rules.grants import end_of
from devopsellence.controller.gateway.upstream import Upstream
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import Keys

M = TypeVar("M", bound=Message)
#: Time that the record of a certificate outlives it.
_KEPT: Final = datetime.timedelta(days=30)


class CertificateRecords:
    """Records of certificates, and those that decide whose are signed. ``seconds``: time for a call to etcd."""

    def __init__(self, upstream: Upstream, keys: Keys) -> None:
        self._upstream = upstream
        self._keys = keys

    async def operator(self, name: str, seconds: float) -> OperatorAccess | None:
        """Return the access of an operator; None without any that can be read."""
        record, _ = await self._read(OperatorAccess, self._keys.operator_access(name), seconds)
        return record

    async def node(self, name: str, seconds: float) -> tuple[Node | None, int]:
        """Return a node and the revision of its record; None if there is none that can be read."""
        return await self._read(Node, self._keys.node(name), seconds)

    async def node_with_uid(self, uid: str, seconds: float) -> str:
        """Return the name of the node that is registered with ``uid``; "" for none, or for several."""
        prefix = self._keys.nodes_prefix.encode()
        found = await self._upstream.range(rpc.RangeRequest(key=prefix, range_end=end_of(prefix)), seconds)
        nodes = [_decoded(Node, kv.key.decode(errors="replace"), kv.value) for kv in found.kvs]
        names = [node.name for node in nodes if node is not None and node.uid == uid]
        return names[0] if len(names) == 1 else ""

    async def used_join_token(self, serial: str, seconds: float) -> UsedJoinToken | None:
        """Return for which machine a join token was used; None if it was not."""
        record, revision = await self._read(UsedJoinToken, self._keys.used_join_token(serial), seconds)
        # A damaged record is not taken for none.
        return record or (UsedJoinToken() if revision else None)

    async def _read(self, kind: type[M], key: str, seconds: float) -> tuple[M | None, int]:
        found = await self._upstream.range(rpc.RangeRequest(key=key.encode()), seconds)
        if not found.kvs:
            return None, 0
        return _decoded(kind, key, found.kvs[0].value), found.kvs[0].mod_revision

    async def write(self, record: IssuedCertificate, seconds: float) -> rpc.PutRequest:
        """Write the record of a certificate, which etcd deletes a month after its end; return the write."""
        put = self._put(record, await self._lease_for(record, seconds))
        await self._upstream.put(put, seconds)
        return put

    async def write_joined(
        self, record: IssuedCertificate, token: str, used: UsedJoinToken, revision: int, seconds: float
    ) -> list[rpc.PutRequest]:
        """Write the record of a node's certificate, and that the join token with the serial number ``token`` is used.

        ``revision`` is that of the node's record.

        Returns:
            the writes; none if the token is used already or the node has changed: nothing was written then.
        """
        lease = await self._lease_for(record, seconds)
        mark = self.mark(token, used, lease)
        puts = [self._put(record, lease), mark]
        node = self._keys.node(used.node).encode()
        request = rpc.TxnRequest(
            compare=[
                rpc.Compare(key=mark.key, target=rpc.Compare.CREATE, create_revision=0),
                rpc.Compare(key=node, target=rpc.Compare.MOD, mod_revision=revision),
            ],
            success=[rpc.RequestOp(request_put=put) for put in puts],
        )
        if (await self._upstream.txn(request, seconds)).succeeded:
            return puts
        await self._upstream.lease_revoke(rpc.LeaseRevokeRequest(ID=lease), seconds)
        return []

    def mark(self, token: str, used: UsedJoinToken, lease: int = 0) -> rpc.PutRequest:
        """Return the write that makes a join token used."""
        return rpc.PutRequest(key=self._keys.used_join_token(token).encode(), value=encode(used), lease=lease)

    def _put(self, record: IssuedCertificate, lease: int) -> rpc.PutRequest:
        key = self._keys.issued_certificate(record.serial).encode()
        return rpc.PutRequest(key=key, value=encode(record), lease=lease)

    async def _lease_for(self, record: IssuedCertificate, seconds: float) -> int:
        left = record.not_after.ToDatetime(datetime.UTC) - datetime.datetime.now(datetime.UTC) + _KEPT
        granted = await self._upstream.lease_grant(rpc.LeaseGrantRequest(TTL=int(left.total_seconds())), seconds)
        return granted.ID


def record_of(
    subject: CertificateRequest, chain: bytes, root: x509.Certificate, issued_by: str, issued_by_serial: str
) -> IssuedCertificate:
    """Return the record of a certificate: for whom, at whose request and under which root it was signed."""
    certificate = x509.load_pem_x509_certificate(chain)
    life = life_of(certificate)
    record = IssuedCertificate(
        serial=serial_text(certificate.serial_number),
        identity=subject.common_name,
        node="" if subject.unit == FIXED_TERM else subject.unit,
        fixed_term=subject.unit == FIXED_TERM or subject.common_name.startswith(JOIN_PREFIX),
        issued_by=issued_by,
        issued_by_serial=issued_by_serial,
        authority=fingerprint(root),
    )
    record.not_before.FromDatetime(life.begins)
    record.not_after.FromDatetime(life.ends)
    return record


def _decoded(kind: type[M], key: str, value: bytes) -> M | None:
    try:
        return decode(kind, key, value)
    except MalformedRecord:
        return None
