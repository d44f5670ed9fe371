"""Certificate of a router: signed by a gateway, else that of the machine; every change reaches Envoy at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from devopsellence.agent_identity import router_name, server_name
from devopsellence.api.v1.stored_pb2 import Authorities, RouterTls
from devopsellence.certificates.facts import common_name, fingerprint
from devopsellence.certificates.files import KeyPair
from devopsellence.certificates.pem import load_certificate
from devopsellence.certificates.trust import by_fingerprint
from devopsellence.nodeagent.certificates.machine import MachineCertificate
from devopsellence.nodeagent.certificates.router import RouterCertificate
from devopsellence.nodeagent.envoy.model import PeerTls
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.until import eventually

pytestmark = pytest.mark.etcd
UID = "uid-n1"


@dataclass
class Node:
    """A node whose Envoy uses everything at once."""

    gateway: RunningGateway
    files: CertificateFiles
    folder: Path
    #: What Envoy got, in this order, and what it uses.
    given: list[PeerTls] = field(default_factory=list)
    used: list[RouterTls] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with Etcd(settings_with(self.gateway.settings(f"node:{UID}"), self.files)) as etcd:
            router = RouterCertificate(etcd, UID, self.files, self.folder, self.given.append, self.used.append)
            machine = MachineCertificate(etcd, self.files, lambda _: None, router)
            await router.load()
            for tls in self.given:
                router.tls_used(tls)
            running = asyncio.create_task(machine.run())
            try:
                yield
            finally:
                running.cancel()
                await asyncio.wait([running])

    async def identity(self, expected: str, *, but: PeerTls | None = None) -> PeerTls:
        """Return what Envoy got last, once it is a certificate of this identity, and another than ``but``."""

        async def look() -> PeerTls | None:
            last = self.given[-1]
            return last if name_in(last) == expected and last != but else None

        found = await eventually(f"the router has a certificate of {expected}", look)
        assert found is not None
        return found


def name_in(tls: PeerTls) -> str:
    return common_name(x509.load_pem_x509_certificate(tls.certificate.encode()))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


async def registered(gateway: RunningGateway, authority: Authority, tmp_path: Path) -> Node:
    await gateway.register("n1")
    folder = tmp_path / "machine"
    folder.mkdir()
    issued = authority.issue(f"node:{UID}", server_name(UID))
    files = CertificateFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    files.authority.write_bytes(issued.authority.read_bytes())
    install(files, issued)
    return Node(gateway, files, tmp_path / "router")


async def test_router_gets_a_certificate_of_its_own(settings: Settings, authority: Authority, tmp_path: Path) -> None:
    issuing = authority.issue_by_intermediate()
    async with running_gateway(settings, authority, issuing) as gateway:
        node = await registered(gateway, authority, tmp_path)
        async with node.running():
            first = await node.identity(f"router:{UID}")
            names = x509.load_pem_x509_certificate(first.certificate.encode()).extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
            assert names.value.get_values_for_type(x509.DNSName) == [router_name(UID), server_name(UID)]
            assert first.key not in node.files.key.read_text()
            assert (node.folder / "tls.key").stat().st_mode & 0o777 == 0o600
            (node.folder / "tls.crt").write_text("damaged")
            second = await node.identity(f"router:{UID}", but=first)
            (node.folder / "tls.key").unlink()
            await node.identity(f"router:{UID}", but=second)
    # The machine's only before there was another.
    assert [name_in(tls) for tls in node.given] == [f"node:{UID}", *[f"router:{UID}"] * 3]


async def test_router_without_a_signing_gateway_follows_the_certificate_of_its_machine(
    settings: Settings, authority: Authority, tmp_path: Path
) -> None:
    async with running_gateway(settings, authority) as gateway:
        node = await registered(gateway, authority, tmp_path)
        async with node.running():
            first = await node.identity(f"node:{UID}")
            assert node.used[-1].trusted == [node.used[-1].authority]
            # Copied by hand, in the order that hurts: the key comes last.
            other = authority.issue(f"node:{UID}", server_name(UID))
            node.files.certificate.write_bytes(other.certificate.read_bytes())
            node.files.key.write_bytes(other.key.read_bytes())

            async def replaced() -> bool:
                return node.given[-1].certificate == other.certificate.read_text()

            await eventually("the other certificate is used", replaced)
            assert node.given[-1].key == other.key.read_text()
        assert [tls.certificate for tls in node.given] == [first.certificate, other.certificate.read_text()]


async def test_rotation_of_the_authority_keeps_certificate_and_trust_together(
    settings: Settings, authority: Authority, tmp_path: Path
) -> None:
    former, coming = authority, Authority(tmp_path / "coming")
    roots = [authority.ca_cert.read_text() for authority in (former, coming)]
    issuing, next_issuing = former.issue_by_intermediate(), coming.issue_by_intermediate()
    async with running_gateway(settings, former, issuing) as gateway:
        node = await registered(gateway, former, tmp_path)
        key = gateway.direct.keys.authorities
        async with node.running():
            first = await node.identity(f"router:{UID}")
            # The gateway trusts both as well.
            former.ca_cert.write_text("".join(roots))
            await gateway.direct.put(key, encode(Authorities(certificates=roots)))
            await eventually("both are trusted", lambda: trusts(node, *roots))
            assert node.given[-1].certificate == first.certificate
            KeyPair(next_issuing.certificate.read_bytes(), next_issuing.key.read_bytes()).write(
                issuing.certificate, issuing.key
            )
            # Too early: the former one is still needed, until machine and router have other certificates.
            await gateway.direct.put(key, encode(Authorities(certificates=roots[1:])))
            await eventually("the coming one alone is trusted", lambda: trusts(node, roots[1]))
            last = await node.identity(f"router:{UID}", but=first)
    assert root_of(last) == fingerprint(load_certificate(coming.ca_cert))
    for tls in node.given:
        assert root_of(tls) in by_fingerprint(tls.authorities.encode())


def root_of(tls: PeerTls) -> str:
    """Return the fingerprint of the authority that the certificate is signed under."""
    last = x509.load_pem_x509_certificates(tls.certificate.encode())[-1]
    for name, pem in by_fingerprint(tls.authorities.encode()).items():
        with suppress(InvalidSignature, ValueError):
            last.verify_directly_issued_by(x509.load_pem_x509_certificate(pem.encode()))
            return name
    return ""


def install(files: CertificateFiles, issued: CertificateFiles) -> None:
    KeyPair(issued.certificate.read_bytes(), issued.key.read_bytes()).write(files.certificate, files.key)


async def trusts(node: Node, *roots: str) -> bool:
    given = by_fingerprint(node.given[-1].authorities.encode())
    return given == by_fingerprint("".join(roots).encode())
