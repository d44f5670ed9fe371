"""Certificates from a real ACME server, ordered by real controllers; the nodes are played by the test."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from devopsellence.age import AgeIdentity
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates.failure import IssuancePace
from devopsellence.controller.controller import CertificateOptions, Controller, serve
from devopsellence.store.codec import decode, encode
from devopsellence.store.election import Election
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.integration.controller.audit import audit, next_revision, read_history
from tests.integration.controller.fenced import Controllers
from tests.integration.controller.serving import certificate, is_there, opened, release, serving
from tests.support.controller import REF, EnvironmentDriver, StartController
from tests.support.need import need_pebble
from tests.support.pebble import BLOCKED_DOMAIN, Pebble

pytestmark = pytest.mark.etcd
HOST = "app.example.com"
BACKOFF = pb.Issuance.BACKOFF


@asynccontextmanager
async def authority(folder: Path, port: int, **how: Any) -> AsyncIterator[Pebble]:
    """An ACME server that looks at ``port``."""
    need_pebble()
    server = Pebble(folder / "acme", http_port=port, **how)
    await asyncio.to_thread(server.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@asynccontextmanager
async def impatient_controller(settings: Settings, ca_cert: Path) -> AsyncIterator[None]:
    """Run a controller with a short backoff in this process."""
    async with Etcd(settings) as etcd, LeaseKeeper(etcd) as keeper:
        stop = asyncio.Event()
        options = CertificateOptions(ca_cert, IssuancePace(first_backoff=0.3, longest_backoff=1.0))
        serving = asyncio.create_task(serve(Controller(etcd, certificates=options), Election(etcd, keeper, "c"), stop))
        try:
            yield
        finally:
            stop.set()
            await serving


async def events(etcd: Etcd) -> list[pb.Event]:
    """Those about certificates, oldest first."""
    items = (await etcd.list(etcd.keys.events_prefix(REF))).items
    found = [decode(pb.Event, item.key, item.value) for item in items]
    return [one for one in found if one.code.startswith("certificate")]


async def begin_anew(etcd: Etcd, host: str) -> None:
    """As an operator: do not wait for the next attempt."""
    key = etcd.keys.certificate(REF, host)
    found = await etcd.get(key)
    assert found is not None
    record = decode(pb.Certificate, key, found.value)
    record.ClearField("issuance")
    await etcd.put(key, encode(record))


async def test_first_certificate_for_all_who_serve_host(
    etcd: Etcd, environment: EnvironmentDriver, start: StartController, tmp_path: Path
) -> None:
    operator = AgeIdentity.generate()
    await environment.write(etcd.keys.operator("ann"), pb.Operator(name="ann", age_recipient=operator.recipient))
    async with serving(etcd, "n1", "n2") as nodes, authority(tmp_path, nodes.port) as acme:
        start("--acme-ca-cert", str(acme.ca_cert))
        await environment.deploy(release(1, acme.directory_url, HOST), "n1", "n2")
        found = await certificate(etcd, HOST, is_there)
        assert found.source == pb.Certificate.ACME
        assert found.obtained_by == "controller"
        assert "Pebble" in found.issuer
        for identity in (*nodes.identities.values(), operator):
            assert opened(found, identity)
        leaf, intermediate = x509.load_pem_x509_certificates(found.chain_pem.encode())
        leaf.verify_directly_issued_by(intermediate)
        assert f"{leaf.serial_number:x}" == found.serial
        assert list(nodes.asked.values()) == [{"n1", "n2"}], "the authority looked before all nodes answered"
        for name in ("n1", "n2"):
            key = etcd.keys.ingress(name, REF, HOST)
            part = await environment.until(
                pb.NodeIngress, key, lambda one: one is not None and not (one.challenges or one.HasField("key_request"))
            )
            assert part is not None
            assert part.certificate.serial == found.serial
    told = await events(etcd)
    assert [(one.code, one.severity) for one in told] == [("certificate_obtained", pb.Event.INFO)]
    assert HOST in told[0].message


async def test_failing_host_delays_no_other(
    etcd: Etcd, environment: EnvironmentDriver, start: StartController, tmp_path: Path
) -> None:
    """Also by an authority that refuses good nonces, and knows earlier authorizations."""
    good = [f"{name}.example.com" for name in "abcdef"]
    refused, lost = f"shop.{BLOCKED_DOMAIN}", "lost.example.com"
    async with (
        serving(etcd, "n1") as nodes,
        authority(tmp_path, nodes.port, bad_nonces_percent=35, reused_authorizations_percent=50) as acme,
    ):
        await asyncio.to_thread(acme.point, lost, [])
        start("--acme-ca-cert", str(acme.ca_cert))
        await environment.deploy(release(1, acme.directory_url, *good, refused, lost), "n1")
        for host in good:
            await certificate(etcd, host, is_there)
        blocked = await certificate(etcd, refused, lambda one: one.issuance.phase == BACKOFF)
        assert "use a host that the authority certifies" in blocked.issuance.reason
        unknown = await certificate(etcd, lost, lambda one: one.issuance.phase == BACKOFF)
        assert f"let http://{lost}/ (port 80) reach the nodes" in unknown.issuance.reason
        assert unknown.issuance.failures == 1
        assert unknown.issuance.next_attempt_at.seconds > unknown.issuance.since.seconds
        assert not unknown.issuance.challenges
        warned = [event for event in await events(etcd) if event.severity == pb.Event.WARNING]
        assert {one.code for one in warned} == {"certificate_failed"}
        assert len(warned) == 2
        # Mended, and an operator does not wait.
        await asyncio.to_thread(acme.point, lost, ["127.0.0.1"])
        await begin_anew(etcd, lost)
        await certificate(etcd, lost, is_there)
        # Deleted: ordered again, where the account has a valid authorization already.
        await etcd.delete(etcd.keys.certificate(REF, good[0]))
        await certificate(etcd, good[0], is_there)


async def test_renewed_ahead_of_its_end_and_kept_while_authority_is_away(
    etcd: Etcd, settings: Settings, environment: EnvironmentDriver, tmp_path: Path
) -> None:
    async with (
        serving(etcd, "n1") as nodes,
        authority(tmp_path, nodes.port, validity_seconds=8) as acme,
        impatient_controller(settings, acme.ca_cert),
    ):
        await environment.deploy(release(1, acme.directory_url, HOST), "n1")
        first = await certificate(etcd, HOST, is_there)
        renewing = await certificate(etcd, HOST, lambda one: one.HasField("issuance"))
        assert renewing.chain_pem, "nothing is served while it is renewed"
        assert "the certificate ends at" in renewing.issuance.reason
        second = await certificate(etcd, HOST, lambda one: is_there(one) and one.serial != first.serial)
        assert second.key_age != first.key_age
        await asyncio.to_thread(acme.stop)
        failed = await certificate(etcd, HOST, lambda one: one.issuance.failures == 2)
        assert failed.chain_pem, "nothing is served while the authority is away"
        assert "cannot be reached; it is retried automatically" in failed.issuance.reason
        # Another server, as far as it can tell: pebble forgets everything.
        await asyncio.to_thread(acme.start)
        await certificate(etcd, HOST, lambda one: is_there(one) and one.serial != failed.serial)
    told = [event.code for event in await events(etcd)]
    # On a machine that is slow enough one of those short lives may be over before it is stored.
    assert [code for code in dict.fromkeys(told) if code != "certificate_failed"] == [
        "certificate_obtained",
        "certificate_renewed",
    ]
    assert told.index("certificate_failed") < len(told) - 1
    assert told[-1] == "certificate_renewed"


async def test_signing_request_for_another_host_is_refused(
    etcd: Etcd, environment: EnvironmentDriver, start: StartController, tmp_path: Path
) -> None:
    async with serving(etcd, "n1") as nodes, authority(tmp_path, nodes.port) as acme:
        nodes.forge = True
        start("--acme-ca-cert", str(acme.ca_cert))
        await environment.deploy(release(1, acme.directory_url, HOST), "n1")
        failed = await certificate(etcd, HOST, lambda one: one.issuance.phase == BACKOFF)
        assert "the signing request of node n1 for app.example.com is rejected" in failed.issuance.reason
        assert not nodes.asked, "the authority was asked for it"
        nodes.forge = False
        await begin_anew(etcd, HOST)
        assert opened(await certificate(etcd, HOST, is_there), nodes.identities["n1"])


async def test_another_node_makes_key_and_new_one_gets_it(
    etcd: Etcd, environment: EnvironmentDriver, start: StartController, tmp_path: Path
) -> None:
    """The node that is asked goes silent; later a node is attached that nobody sealed the key for."""
    async with serving(etcd, "n1", "n2", "n3") as nodes, authority(tmp_path, nodes.port) as acme:
        nodes.answer_keys = False
        start("--acme-ca-cert", str(acme.ca_cert))
        await environment.deploy(release(1, acme.directory_url, HOST), "n1", "n2")
        asked = await certificate(etcd, HOST, lambda one: one.issuance.key_node == "n1")
        await etcd.delete(etcd.keys.heartbeat("n1"))
        again = await certificate(etcd, HOST, lambda one: one.issuance.key_node == "n2")
        assert again.issuance.key_request.id != asked.issuance.key_request.id
        nodes.answer_keys = True
        await nodes.look()
        first = await certificate(etcd, HOST, is_there)
        # The silent one can open it all the same: its key is known from its record or not at all.
        assert opened(first, nodes.identities["n2"])
        await environment.attach("n1", "n2", "n3", latest=1)
        second = await certificate(etcd, HOST, lambda one: is_there(one) and one.serial != first.serial)
        assert opened(second, nodes.identities["n3"])


async def test_unused_certificates_are_deleted_unless_installed(
    etcd: Etcd, environment: EnvironmentDriver, start: StartController, tmp_path: Path
) -> None:
    other = "other.example.com"
    async with serving(etcd, "n1") as nodes, authority(tmp_path, nodes.port) as acme:
        start("--acme-ca-cert", str(acme.ca_cert))
        await environment.deploy(release(1, acme.directory_url, HOST, other), "n1")
        installed = await certificate(etcd, other, is_there)
        await certificate(etcd, HOST, is_there)
        installed.source = pb.Certificate.INSTALLED
        await environment.write(etcd.keys.certificate(REF, other), installed)
        await environment.deploy(release(2, acme.directory_url), "n1")
        # Release 1, which would be gone back to, has to be out of the way first.
        await environment.rollout(lambda one: one.release == 2 and one.phase == pb.Rollout.SETTLED)
        await environment.deploy(release(3, acme.directory_url), "n1")
        await environment.rollout(lambda one: one.release == 3 and one.phase == pb.Rollout.SETTLED)
        await environment.gone(etcd.keys.certificate(REF, HOST))
        assert await environment.read(pb.Certificate, etcd.keys.certificate(REF, other)) == installed


async def test_unreachable_authority_holds_up_no_nodes_end(
    etcd: Etcd, environment: EnvironmentDriver, start: StartController, tmp_path: Path
) -> None:
    async with serving(etcd, "n1") as nodes, authority(tmp_path, nodes.port) as acme:
        acme.pause()
        controller = start("--acme-ca-cert", str(acme.ca_cert))
        await environment.deploy(release(1, acme.directory_url, HOST), "n1")
        await certificate(etcd, HOST, lambda one: one.issuance.phase == pb.Issuance.ORDER)
        assert await controller.stop() == 0
        acme.resume()
        start("--acme-ca-cert", str(acme.ca_cert))
        await certificate(etcd, HOST, is_there)


async def test_killed_in_every_phase_there_is_one_certificate(
    etcd: Etcd, settings: Settings, environment: EnvironmentDriver, tmp_path: Path
) -> None:
    """Each leader is killed in another phase of the same certificate; whoever is left goes on from etcd alone."""
    since = await next_revision(etcd)
    async with serving(etcd, "n1", "n2") as nodes, authority(tmp_path, nodes.port) as acme:
        trusting = {"DEVOPSELLENCE_ACME_CA_CERT": str(acme.ca_cert)}
        with Controllers(etcd, settings, tmp_path / "controllers", 5, **trusting) as standing:
            await standing.all_stand()

            async def kill_at(phase: pb.Issuance.Phase.ValueType, release_it: Callable[[], object]) -> None:
                await certificate(etcd, HOST, lambda one: one.issuance.phase == phase)
                leader = await standing.leader()
                await standing.end(leader, signal.SIGKILL)
                release_it()
                await standing.succeeded(leader)

            nodes.answer_keys = nodes.answer_challenges = False
            await environment.deploy(release(1, acme.directory_url, HOST), "n1", "n2")
            await kill_at(pb.Issuance.KEY, acme.pause)
            nodes.answer_keys = True
            await nodes.look()
            await kill_at(pb.Issuance.ORDER, acme.resume)
            await kill_at(pb.Issuance.CHALLENGE, lambda: None)
            nodes.answer_challenges = True
            await nodes.look()
            await kill_at(pb.Issuance.FINALIZE, lambda: None)
            found = await certificate(etcd, HOST, is_there)
        for identity in nodes.identities.values():
            assert opened(found, identity)
    findings = audit(await read_history(etcd, since), etcd.keys, certificates=True)
    assert findings.defects == []
    assert len(findings.leaders) == 5
    assert [event.code for event in await events(etcd)] == ["certificate_obtained"]
