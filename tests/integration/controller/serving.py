"""Nodes that serve an ingress, as their agents would report it, and answer the challenges of a real ACME server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from devopsellence.age import AgeIdentity, encrypt
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd
from tests.support.controller import REF, EnvironmentDriver

_PATH: Final = "/.well-known/acme-challenge/"


def signing_request(request: pb.KeyRequest, *, host: str = "") -> pb.SigningRequest:
    """A new key and what certifies it, as an agent answers ``request``; ``host``: a wrong one."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(host or request.host)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pb.SigningRequest(
        id=request.id,
        csr_pem=csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(),
        key_age=encrypt(pem, request.recipients),
        recipients=request.recipients,
    )


class Nodes:
    """Each of ``names`` settles at what it is assigned, makes keys, answers challenges, and says so.

    Attributes:
        identities: their age identities.
        port: where all of them answer by HTTP, as if it were port 80.
        answer_keys: requests for keys are answered.
        answer_challenges: challenges are answered and reported.
        forge: signing requests are for another host.
        asked: the tokens that were asked for by HTTP, each with the nodes that had reported it by then.
    """

    def __init__(self, etcd: Etcd, names: Iterable[str], port: int) -> None:
        self._etcd = etcd
        self._environment = EnvironmentDriver(etcd)
        self.identities = {name: AgeIdentity.generate() for name in names}
        self.port = port
        self.answer_keys = True
        self.answer_challenges = True
        self.forge = False
        self.asked: dict[str, set[str]] = {}
        self._answers: dict[str, str] = {}
        self._made: dict[str, pb.SigningRequest] = {}
        self._reported: dict[str, pb.AssignmentStatus] = {}

    async def register(self) -> None:
        """Write the Nodes and their heartbeats."""
        for name, identity in self.identities.items():
            node = pb.Node(name=name, uid=f"uid-{name}", labels=["web"])
            beat = pb.Heartbeat(node=name, uid=f"uid-{name}", age_recipient=identity.recipient)
            await self._environment.write(self._etcd.keys.node(name), node)
            await self._environment.write(self._etcd.keys.heartbeat(name), beat)

    async def look(self) -> None:
        """Report the status of each node after a change, as agents do."""
        keys = self._etcd.keys
        items = (await self._etcd.list(keys.all_ingress_prefix)).items
        parts = [decode(pb.NodeIngress, item.key, item.value) for item in items]
        parts_of = {(part.node, part.part): part for part in parts}
        for item in (await self._etcd.list(keys.all_assignments_prefix)).items:
            assignment = decode(pb.Assignment, item.key, item.value)
            mine = [part for (node, _), part in sorted(parts_of.items()) if node == assignment.node]
            status = self._status(assignment, mine)
            if status != self._reported.get(assignment.node):
                await self._etcd.put(keys.status(assignment.node, REF), encode(status))
                self._reported[assignment.node] = status

    async def follow(self) -> None:
        """Look whenever etcd changes, until cancelled."""
        listing = await self._etcd.list(self._etcd.keys.prefix)
        await self.look()
        async with aclosing(self._etcd.watch(self._etcd.keys.prefix, start_revision=listing.revision + 1)) as batches:
            async for _ in batches:
                await self.look()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve an HTTP request."""
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        token = path.removeprefix(_PATH)
        body = self._answers.get(token, "")
        served_by = {name for name, status in self._reported.items() if token in status.ingress.challenges}
        self.asked.setdefault(token, served_by)
        head = f"HTTP/1.1 {200 if body else 404} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    def _status(self, assignment: pb.Assignment, parts: Iterable[pb.NodeIngress]) -> pb.AssignmentStatus:
        status = pb.AssignmentStatus(
            node=assignment.node,
            node_uid=assignment.node_uid,
            generation=assignment.generation,
            release=assignment.release,
            phase=pb.AssignmentStatus.REMOVED if assignment.removed else pb.AssignmentStatus.SETTLED,
        )
        if not assignment.HasField("ingress"):
            return status
        status.ingress.phase = pb.IngressStatus.SERVING
        for part in parts:
            if part.HasField("certificate"):
                status.ingress.certificates.add(host=part.part, serial=part.certificate.serial)
            if part.HasField("key_request") and self.answer_keys:
                status.ingress.signing_requests.append(self._answer(part.key_request))
            for challenge in part.challenges if self.answer_challenges else ():
                self._answers[challenge.token] = challenge.key_authorization
                status.ingress.challenges.append(challenge.token)
        status.ingress.signing_requests.sort(key=lambda one: one.id)
        return status

    def _answer(self, request: pb.KeyRequest) -> pb.SigningRequest:
        if request.id not in self._made:
            self._made[request.id] = signing_request(request, host="other.example.com" if self.forge else "")
        return self._made[request.id]


@asynccontextmanager
async def serving(etcd: Etcd, *names: str) -> AsyncIterator[Nodes]:
    """Nodes that are registered and work until the end."""
    nodes: list[Nodes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await nodes[0].serve(reader, writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        nodes.append(Nodes(etcd, names, server.sockets[0].getsockname()[1]))
        await nodes[0].register()
        working = asyncio.create_task(nodes[0].follow())
        try:
            yield nodes[0]
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


def release(number: int, directory_url: str, *hosts: str) -> pb.Release:
    """The service "web", to which ``hosts`` lead."""
    ingress = workload_pb2.Ingress(
        hosts=hosts, tls_mode=workload_pb2.Ingress.AUTO, tls_email="ops@example.com", tls_ca_directory_url=directory_url
    )
    for host in hosts:
        ingress.rules.add(host=host, path_prefix="/", service="web", port="http")
    release = pb.Release(
        organization=REF.organization,
        project=REF.project,
        environment=REF.environment,
        number=number,
        services=[workload_pb2.Service(name="web", kind=workload_pb2.Service.WEB)],
        rollout=workload_pb2.RolloutPolicy(max_parallel="100%"),
    )
    if hosts:
        release.ingress.CopyFrom(ingress)
    release.rollout.progress_deadline.FromSeconds(600)
    return release


async def certificate(etcd: Etcd, host: str, check: Callable[[pb.Certificate], bool]) -> pb.Certificate:
    """The record for ``host``, as soon as there is one that ``check`` says yes to."""
    found = await EnvironmentDriver(etcd).until(
        pb.Certificate, etcd.keys.certificate(REF, host), lambda one: one is not None and check(one)
    )
    assert found is not None
    return found


def is_there(one: pb.Certificate) -> bool:
    """There is a certificate, and nothing more to be done."""
    return bool(one.chain_pem) and not one.HasField("issuance")


def opened(one: pb.Certificate, identity: AgeIdentity) -> bool:
    """Return whether ``identity`` decrypts the key of the certificate."""
    key = serialization.load_pem_private_key(identity.decrypt(one.key_age), None)
    leaf = x509.load_pem_x509_certificate(one.chain_pem.encode())
    return key.public_key() == leaf.public_key()
