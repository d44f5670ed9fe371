"""The command ``audit``: entries of two gateways, filters, rights, and gateways that are away."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from devopsellence.access.roles import Role
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.audit_pb2 import AuditEntry, AuditRequest
from devopsellence.cli.audit.client import follow
from devopsellence.store.codec import encode
from devopsellence.store.errors import PermissionDenied
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.gateway.key_classes import OTHER, OWN
from tests.integration.gateway.test_audit import REPORTED, becomes, deploy, report
from tests.support.cli import Cli
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.hostile import TEXT, unsafe
from tests.support.ports import free_port
from tests.support.until import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.usefixtures("quiet")]


@pytest.fixture
async def other(audited: RunningGateway, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A second gateway of the same cluster, which is found by the record of the gateways."""
    async with running_gateway(audited.direct.settings, audited.authority, audit=tmp_path / "other") as running:
        record = pb.Gateways(addresses=[audited.address, running.address])
        await audited.direct.put(audited.direct.keys.gateways, encode(record))
        yield running


@pytest.fixture
async def history(audited: RunningGateway, other: RunningGateway) -> RunningGateway:
    """A deploy and a refusal through different gateways, and a command on a node that both have stored."""
    for running in (audited, other):
        await running.grant("ann", str(OWN), roles=[Role.DEPLOYER, Role.EXEC])
        await running.grant("eve", str(OTHER), roles=[Role.VIEWER])
        await running.grant("abe", str(OTHER), roles=[Role.ADMIN])
        await running.register("n1")
    await deploy(audited.operator("ann"), 1, "ann@laptop")
    with pytest.raises(PermissionDenied):
        await deploy(other.operator("eve"), 2, "eve@laptop")
    command = AuditEntry(
        id=REPORTED,
        caller="operator:ann",
        peer="10.0.0.9:1",
        call="Exec",
        summary=f"exec in web of {OWN}",
        outcome=AuditEntry.ALLOWED,
        environments=[str(OWN)],
        services=["web"],
        command=["sh", "-c", "echo $TOKEN"],
    )
    await report(audited.node("n1"), command)
    await report(other.node("n1"), command)
    await becomes(audited.root(), 2)
    await becomes(other.root(), 2)
    return audited


def cli(gateway: RunningGateway, name: str, folder: Path) -> Cli:
    return Cli(gateway.root() if name == "root" else gateway.operator(name), folder)


async def run(gateway: RunningGateway, folder: Path, name: str, *words: str) -> dict[str, Any]:
    return await asyncio.to_thread(cli(gateway, name, folder).json, "audit", *words)


def told(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(entry["who"], entry["outcome"], entry["reported_by"]) for entry in found["entries"]]


async def test_entries_of_all_gateways_are_shown_once(history: RunningGateway, tmp_path: Path) -> None:
    found = await run(history, tmp_path, "root")
    assert told(found) == [("ann", "allowed", ""), ("eve", "refused", ""), ("ann", "allowed", "n1")]
    assert found["complete"]
    assert [entry["answered"] for entry in found["gateways"]] == [True, True]
    deployed, _, command = found["entries"]
    assert deployed["summary"] == f"deploy release 1 of {OWN}"
    assert (command["command"], command["from"]) == (["sh", "-c", "echo $TOKEN"], "10.0.0.9:1")
    text = (await asyncio.to_thread(cli(history, "root", tmp_path).ok, "audit")).splitlines()
    assert text[0].split() == ["TIME", "WHO", "FROM", "RESULT", "NODE", "WHAT"]
    assert text[1].endswith(f"deploy release 1 of {OWN}")
    assert "10.0.0.9   allowed  n1    exec in web" in text[3]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--by", "ann"], 2),
        (["--by", "operator:eve"], 1),
        (["--by", "root"], 0),
        (["--node", "n1"], 1),
        (["--refused"], 1),
        (["--since", "1h"], 3),
        (["--since", "2099-01-01"], 0),
        (["--until", "1h"], 0),
        (["--limit", "1"], 1),
        (["-n", "0"], 3),
        (["--env", str(OWN)], 3),
        (["--env", str(OTHER)], 0),
    ],
)
async def test_filters(history: RunningGateway, tmp_path: Path, words: list[str], count: int) -> None:
    found = await run(history, tmp_path, "root", *words)
    assert len(found["entries"]) == count
    if words == ["--limit", "1"]:
        assert told(found) == [("ann", "allowed", "n1")]


async def test_operators_see_what_they_may(history: RunningGateway, tmp_path: Path) -> None:
    seen = {}
    for name in ("ann", "eve", "abe"):
        result = await asyncio.to_thread(cli(history, name, tmp_path).run, "audit", "-o", "json")
        assert result.exit_code == 0, result.output
        seen[name] = (len(json.loads(result.stdout)["entries"]), result.stderr.strip())
    assert seen == {
        "ann": (2, "Shown are your own calls; others need the role admin."),
        "eve": (1, "Shown are your own calls; others need the role admin."),
        "abe": (0, f"Shown are your own calls, and calls about {OTHER}; others need the role admin."),
    }


async def test_gateway_that_is_away_or_keeps_nothing_is_named(
    history: RunningGateway, gateway: RunningGateway, tmp_path: Path
) -> None:
    away = f"127.0.0.1:{free_port()}"
    record = pb.Gateways(addresses=[history.address, gateway.address, away])
    await history.direct.put(history.direct.keys.gateways, encode(record))
    result = await asyncio.to_thread(cli(history, "root", tmp_path).run, "audit", "-o", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["complete"], len(found["entries"])) == (False, 2)
    problems = {entry["address"]: entry["problem"] for entry in found["gateways"]}
    assert problems[history.address] == ""
    assert problems[gateway.address].startswith("this gateway keeps no audit trail")
    assert problems[away]
    assert f"Warning: entries of the gateway at {away} are missing: " in result.stderr


async def test_cluster_without_a_trail_is_an_error(gateway: RunningGateway, tmp_path: Path) -> None:
    error = await asyncio.to_thread(cli(gateway, "root", tmp_path).error, "audit")
    assert (error["code"], error["exit_code"]) == ("audit_unavailable", 1)
    assert "start its controller with --audit-dir" in error["message"]
    plain = Cli(gateway.direct.settings, tmp_path)
    error = await asyncio.to_thread(plain.error, "audit")
    assert error["code"] == "certificate_missing"
    assert "no gateways and no audit trail" in error["message"]


@pytest.mark.parametrize(
    "words", [["--since", "yesterday"], ["--limit", "10001"], ["--follow", "--until", "1h"], ["--since"]]
)
def test_wrong_usage(words: list[str], tmp_path: Path) -> None:
    result = Cli(Settings(("127.0.0.1:1",)), tmp_path).run("audit", *words)
    assert result.exit_code == 2, result.output


async def test_text_of_a_hostile_node_reaches_no_terminal(history: RunningGateway, tmp_path: Path) -> None:
    hostile = AuditEntry(
        id=REPORTED[::-1], caller=TEXT, peer=TEXT, call=TEXT, summary=TEXT, reason=TEXT, command=[TEXT], services=[TEXT]
    )
    await report(history.node("n1"), hostile)
    text = await asyncio.to_thread(cli(history, "root", tmp_path).ok, "audit")
    assert "\\x1b" in text
    assert not unsafe(text)
    found = await run(history, tmp_path, "root")
    assert found["entries"][-1]["summary"] == TEXT[:600]


async def test_followed_entries_come_as_they_are_stored(
    history: RunningGateway, other: RunningGateway, tmp_path: Path
) -> None:
    line = [sys.executable, "-m", "devopsellence.cli", "audit", "--follow", "-o", "json"]
    environ = cli(history, "root", tmp_path).process_environ()
    process = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE, env=environ, cwd=tmp_path)
    lines: list[dict[str, Any]] = []

    async def until(summary: str) -> None:
        assert process.stdout is not None
        while not (lines and lines[-1]["summary"] == summary):
            lines.append(json.loads(await process.stdout.readline()))

    try:
        await until(f"exec in web of {OWN}")
        await deploy(other.operator("ann"), 3, "ann@laptop")
        await until(f"deploy release 3 of {OWN}")
        async with Etcd(history.root()) as etcd:
            await etcd.delete(etcd.keys.node("n9"))
        await until("delete node n9")
    finally:
        process.terminate()
        code = await process.wait()
    assert code == 143
    assert len({entry["id"] for entry in lines}) == len(lines)


async def test_follower_goes_on_after_its_gateway_was_away(audited: RunningGateway, tmp_path: Path) -> None:
    port = free_port()
    shown: list[str] = []
    said: list[str] = []

    def show(entries: Sequence[AuditEntry]) -> None:
        shown.extend(entry.summary for entry in entries)

    async def restarted() -> AsyncIterator[RunningGateway]:
        async with running_gateway(
            audited.direct.settings, audited.authority, audit=tmp_path / "b", port=port
        ) as running:
            await running.grant("ann", str(OWN), roles=[Role.DEPLOYER])
            yield running

    async for running in restarted():
        requests = {running.address: AuditRequest(follow=True)}
        following = asyncio.create_task(
            follow(running.root(), requests, show, lambda _address, problem: said.append(problem))
        )
        await deploy(running.operator("ann"), 1, "ann@laptop")
        await eventually("the first entry", partial(_copy, shown), bool)
    await eventually("a problem", partial(_copy, said), bool)
    async for running in restarted():
        await deploy(running.operator("ann"), 2, "ann@laptop")
        await eventually(
            "the second entry", partial(_copy, shown), lambda found: found[-1].startswith("deploy release 2")
        )
    assert not following.done()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def _copy(texts: list[str]) -> list[str]:
    return list(texts)
