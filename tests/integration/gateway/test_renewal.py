"""An agent whose certificate is due: renewed through the gateway, used without a restart, after failures too."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog.testing

from bench.hollow.agent import HollowAgent
from devopsellence.access.roles import Role
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.certificates.renewal import InstalledCertificate, read_certificate
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.codec import decode, encode
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with
from tests.support.cli import Cli
from tests.support.controller import REF
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.until import eventually

pytestmark = pytest.mark.etcd
UID = "uid-n1"


@dataclass
class Setting:
    """A registered node with a certificate of its own, and an authority that signs."""

    settings: Settings
    authority: Authority
    issuing: IssuingFiles
    folder: Path

    def certificate(self, *, days_old: int) -> CertificateFiles:
        return self.authority.issue(f"node:{UID}", days_old=days_old, file="own")

    def agent(self, gateway: RunningGateway, files: CertificateFiles) -> HollowAgent:
        settings = settings_with(gateway.settings(f"node:{UID}"), files)
        return HollowAgent("n1", UID, self.folder, settings, certificate=files)


@pytest.fixture
def setting(etcd_server: EtcdServer, tmp_path: Path) -> Setting:
    authority = Authority(tmp_path / "ca")
    issuing = authority.issue_by_intermediate()
    settings = etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")
    return Setting(settings, authority, issuing, tmp_path / "state")


async def heartbeat_with(gateway: RunningGateway, serial: str) -> pb.Heartbeat:
    """Return the heartbeat once it names the certificate."""
    key = gateway.direct.keys.heartbeat("n1")

    async def read() -> pb.Heartbeat:
        item = await gateway.direct.get(key)
        return decode(pb.Heartbeat, key, item.value) if item is not None else pb.Heartbeat()

    return await eventually(f"heartbeat with {serial}", read, lambda beat: beat.certificate_serial == serial)


async def renewed(files: CertificateFiles, before: InstalledCertificate) -> InstalledCertificate:
    return await eventually("renewal", lambda: asyncio.to_thread(read_certificate, files), lambda now: now != before)


async def test_agent_renews_its_certificate_and_goes_on_with_it(setting: Setting) -> None:
    async with running_gateway(setting.settings, setting.authority, setting.issuing) as gateway:
        await gateway.register("n1")
        files = setting.certificate(days_old=70)
        before, key = read_certificate(files), files.key.read_bytes()
        agent = setting.agent(gateway, files)
        agent.start()
        after = await renewed(files, before)
        assert after.life.begins > before.life.begins
        beat = await heartbeat_with(gateway, after.serial)
        assert beat.certificate_expires_at.ToDatetime() == after.life.ends.replace(tzinfo=None)
        assert files.key.read_bytes() != key
        # With the old certificate it could not go on.
        await gateway.deny(pb.DeniedCertificate(serial=before.serial))
        keys = gateway.direct.keys
        assignment = pb.Assignment(
            node="n1",
            node_uid=UID,
            generation=1,
            organization=REF.organization,
            project=REF.project,
            environment=REF.environment,
        )
        await gateway.direct.put(keys.assignment("n1", REF), encode(assignment))
        await eventually("status", lambda: gateway.direct.get(keys.status("n1", REF)), lambda item: item is not None)
        await agent.stop()


async def test_operator_renews_its_certificate_with_any_command(setting: Setting, tmp_path: Path) -> None:
    async with running_gateway(setting.settings, setting.authority, setting.issuing) as gateway:
        await gateway.grant("ann", "*", roles=(Role.VIEWER,))
        files = setting.authority.issue("operator:ann", days_old=70, file="ann")
        before = read_certificate(files)
        cli = Cli(settings_with(gateway.operator("ann"), files), tmp_path)
        # Several at once, of which one may replace the files.
        done = await asyncio.gather(*(asyncio.to_thread(command, cli, "node", "list") for _ in range(3)))
        assert [(result.returncode, result.stderr) for result in done] == [(0, "")] * 3
        after = read_certificate(files)
        assert after.life.begins > before.life.begins
        assert sorted(path.name for path in files.key.parent.iterdir() if path.name.startswith((".", "ann.crt."))) == []
        await gateway.deny(pb.DeniedCertificate(serial=before.serial))
        assert (await asyncio.to_thread(command, cli, "node", "list")).returncode == 0
        assert read_certificate(files) == after


async def test_certificates_of_the_cluster_are_listed(setting: Setting, tmp_path: Path) -> None:
    async with running_gateway(setting.settings, setting.authority, setting.issuing) as gateway:
        await gateway.register("n1")
        await gateway.grant("ann", "*", roles=(Role.VIEWER,))
        await gateway.grant("amy", "*", roles=(Role.ADMIN,))
        files = setting.certificate(days_old=70)
        before = read_certificate(files)
        agent = setting.agent(gateway, files)
        agent.start()
        after = await renewed(files, before)
        await heartbeat_with(gateway, after.serial)
        shown = {}
        for name in ("ann", "amy"):
            cli = Cli(gateway.operator(name), tmp_path)
            done = await asyncio.to_thread(command, cli, "cluster", "certificates", "-o", "json")
            shown[name] = [
                (found["identity"], found["used_by"], found["signed_for"], found["state"])
                for found in json.loads(done.stdout)["certificates"]
                if "authority" not in found["identity"]
            ]
        await agent.stop()
    own = "operator:ann", str(cli_file(shown["ann"], "operator:ann")), "", "ok"
    # A viewer does not see who had which certificate signed.
    assert sorted(shown["ann"]) == [("node:uid-n1", "node n1", "", "ok"), own]
    assert ("node:uid-n1", "node n1", "node:uid-n1", "ok") in shown["amy"]


def cli_file(shown: list[tuple[str, str, str, str]], identity: str) -> str:
    """Return where a certificate of this machine was found."""
    return next(used_by for found, used_by, _, _ in shown if found == identity)


async def test_command_goes_on_without_a_renewal(setting: Setting, tmp_path: Path) -> None:
    async with running_gateway(setting.settings, setting.authority) as gateway:
        await gateway.grant("ann", "*", roles=(Role.VIEWER,))
        files = setting.authority.issue("operator:ann", days_old=70, file="ann")
        before = read_certificate(files)
        cli = Cli(settings_with(gateway.operator("ann"), files), tmp_path)
        done = await asyncio.to_thread(command, cli, "node", "list")
        assert (done.returncode, done.stderr) == (0, "")
        assert read_certificate(files) == before


def command(cli: Cli, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    program = [sys.executable, "-m", "devopsellence.cli", *arguments]
    return subprocess.run(
        program, env=cli.process_environ(), cwd=cli.folder, capture_output=True, text=True, timeout=30, check=False
    )


async def test_young_certificate_is_left_alone(setting: Setting) -> None:
    async with running_gateway(setting.settings, setting.authority, setting.issuing) as gateway:
        await gateway.register("n1")
        files = setting.certificate(days_old=50)
        before = read_certificate(files)
        agent = setting.agent(gateway, files)
        agent.start()
        await heartbeat_with(gateway, before.serial)
        await agent.stop()
        assert read_certificate(files) == before
        records = (await gateway.direct.list(gateway.direct.keys.issued_certificates_prefix)).items
        signed = {decode(pb.IssuedCertificate, record.key, record.value).identity for record in records}
        # Its router had none yet.
        assert signed <= {f"router:{UID}"}


async def test_failed_renewal_is_logged_and_changes_nothing(setting: Setting) -> None:
    async with running_gateway(setting.settings, setting.authority) as gateway:
        await gateway.register("n1")
        files = setting.certificate(days_old=70)
        before = read_certificate(files)
        agent = setting.agent(gateway, files)
        with structlog.testing.capture_logs() as logs:
            agent.start()

            async def failures() -> list[str]:
                return [line["reason"] for line in logs if line["event"] == "certificate not renewed"]

            await eventually("a failure is logged", failures, bool)
        await heartbeat_with(gateway, before.serial)
        await agent.stop()
        assert read_certificate(files) == before
