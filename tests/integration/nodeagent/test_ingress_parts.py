"""Parts of an ingress in etcd: followed, kept on disk, and answered by the agent."""

from __future__ import annotations

import pytest
from cryptography import x509

from devopsellence.age import AgeIdentity
from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import encode
from devopsellence.store.keys import PEERS
from devopsellence.store.settings import Settings
from tests.integration.nodeagent.agent_with_router import agent_of
from tests.integration.nodeagent.test_ingress import HOST, ingress
from tests.support.agent import ENV, AgentNode, Status
from tests.support.fake_router import FakeRouter
from tests.support.host_certificates import encrypted_certificate
from tests.support.until import eventually

pytestmark = pytest.mark.docker

NOBODY = Settings(("127.0.0.1:1",))


def part(
    node: AgentNode, name: str = HOST, certificate: stored_pb2.HostCertificate | None = None, uid: str = ""
) -> stored_pb2.NodeIngress:
    return stored_pb2.NodeIngress(
        node=node.name,
        node_uid=uid or node.uid,
        organization=ENV.organization,
        project=ENV.project,
        environment=ENV.environment,
        part=name,
        certificate=certificate,
    )


async def send(node: AgentNode, sent: stored_pb2.NodeIngress | bytes, name: str = HOST) -> None:
    value = sent if isinstance(sent, bytes) else encode(sent)
    await node.etcd.put(node.etcd.keys.ingress(node.name, ENV, name), value)


async def serves(node: AgentNode, serial: str, *tokens: str, says: str = "") -> Status:
    """Return the status once it names this certificate (empty: none), these challenges and ``says``."""

    def holds(status: Status) -> bool:
        ingress = status.ingress
        serials = [(certificate.host, certificate.serial) for certificate in ingress.certificates]
        expected = [(HOST, serial)] if serial else []
        return (serials, tuple(ingress.challenges)) == (expected, tokens) and says in ingress.reason

    return await node.until(f"{serial} {tokens} {says!r}", holds, seconds=60)


async def test_certificate_parts_are_followed_and_kept(node: AgentNode) -> None:
    """No service is assigned here, as the status says all along."""
    routes = FakeRouter()
    async with agent_of(node, routes) as agent:
        me = agent.beat.age_recipient
        first, second, foreign = (
            encrypted_certificate(HOST, me),
            encrypted_certificate(HOST, me),
            encrypted_certificate(HOST, AgeIdentity.generate().recipient),
        )
        await node.assign(ingress=ingress())
        await serves(node, "")
        sent = part(node, certificate=first)
        sent.challenges.add(token="t1", key_authorization="t1.x")
        await send(node, sent)
        await serves(node, first.serial, "t1")
        await send(node, part(node, certificate=second))
        await serves(node, second.serial)
        await send(node, part(node, certificate=foreign))
        await serves(node, second.serial, says="the previous certificate is still served")
        await send(node, b"{")
        await serves(node, second.serial, says="does not hold a readable NodeIngress")
        sent = part(node, certificate=first, uid="another")
        sent.challenges.add(token="t2", key_authorization="t2.x")
        await send(node, sent)
        site = routes.configs[ENV]
        assert site is not None
        assert "PRIVATE KEY" in site.certificates[HOST].key_pem
    secret = site.certificates[HOST].key_pem.splitlines()[1]
    files = [path for path in (node.folder / "state").rglob("*") if path.is_file()]
    assert any("+" in file.name and file.parent.name == "ingress" for file in files)
    assert not [file for file in files if secret.encode() in file.read_bytes()]
    # Without etcd, from disk: the last one that could be used.
    routes.configs.clear()
    async with agent_of(node, routes, NOBODY):

        async def served() -> str:
            record = routes.configs.get(ENV)
            return record.certificates[HOST].serial if record is not None and HOST in record.certificates else ""

        assert await eventually("it is served from disk", served, seconds=60) == second.serial
    async with agent_of(node, routes):
        await node.etcd.delete(node.etcd.keys.ingress(node.name, ENV, HOST))
        await send(node, part(node, PEERS), PEERS)
        await serves(node, second.serial)
        other = ingress()
        other.hosts[:], other.rules[0].host = ["other.example.com"], "other.example.com"
        await node.assign(ingress=other, release=2)
        await serves(node, "")
        await node.assign(ingress=ingress(), release=3)
        await serves(node, "")


async def test_key_request_is_answered(node: AgentNode) -> None:
    operator = AgeIdentity.generate()
    async with agent_of(node, FakeRouter()) as agent:
        await node.assign(ingress=ingress())
        sent = part(node)
        recipients = sorted([operator.recipient, agent.beat.age_recipient])
        sent.key_request.CopyFrom(stored_pb2.KeyRequest(id="ab", host=HOST, recipients=recipients))
        await send(node, sent)
        status = await node.until("answered", lambda seen: len(seen.ingress.signing_requests) == 1, seconds=60)
        (answer,) = status.ingress.signing_requests
        asked = x509.load_pem_x509_csr(answer.csr_pem.encode())
        assert (answer.id, list(answer.recipients), asked.is_signature_valid) == ("ab", recipients, True)
        assert b"PRIVATE KEY" in operator.decrypt(answer.key_age)
        # The certificate of that key comes back, sealed as it was, and the request goes.
        await send(node, part(node))
        await node.until("it is forgotten", lambda seen: not seen.ingress.signing_requests, seconds=60)


async def test_peers_of_ingress_are_followed(node: AgentNode) -> None:
    routes = FakeRouter()
    async with agent_of(node, routes):
        await node.assign(ingress=ingress())
        sent = part(node, PEERS)
        sent.peers.add(node="n2", uid="u2", address="10.0.0.2:7444")
        await send(node, sent, PEERS)

        async def peers() -> list[str]:
            site = routes.configs.get(ENV)
            return [f"{peer.node} {peer.address} {peer.port}" for peer in site.peers] if site is not None else []

        assert await eventually("a peer", peers, seconds=60) == ["n2 10.0.0.2 7444"]
        sent.peers.add(node="n3", uid="u3", address="localhost:7444")
        await send(node, sent, PEERS)

        async def by_name() -> bool:
            return await peers() in (["n2 10.0.0.2 7444", f"n3 {host} 7444"] for host in ("127.0.0.1", "::1"))

        await eventually("one by its name", by_name, seconds=60)
    routes.configs.clear()
    async with agent_of(node, routes, NOBODY):
        await eventually("both from disk", by_name, seconds=60)
    async with agent_of(node, routes):
        await eventually("both again", by_name, seconds=60)
        await node.etcd.delete(node.etcd.keys.ingress(node.name, ENV, PEERS))

        async def alone() -> bool:
            return not await peers()

        await eventually("no peer", alone, seconds=60)


async def test_parts_of_unassigned_environment_are_dropped(node: AgentNode) -> None:
    stored = node.folder / "state" / "ingress"

    async def there() -> bool:
        return len(list(stored.glob("*.json"))) == 1

    async def gone() -> bool:
        return not await there()

    async with agent_of(node, FakeRouter()) as agent:
        await send(node, part(node, certificate=encrypted_certificate(HOST, agent.beat.age_recipient)))
        await eventually("it is on disk", there, seconds=60)
        await node.etcd.delete(node.etcd.keys.ingress(node.name, ENV, HOST))
        await eventually("it is on disk no more", gone, seconds=60)
