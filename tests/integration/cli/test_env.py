"""``env``: environments are listed, and deleted with everything that belongs to them and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import (
    Assignment,
    AssignmentStatus,
    Candidate,
    Certificate,
    Environment,
    Event,
    Heartbeat,
    Node,
    NodeIngress,
    Release,
    Rollout,
    Secret,
    ServiceStatus,
)
from devopsellence.cli.environments import delete
from devopsellence.cli.output import CliError
from devopsellence.cli.store import transaction
from devopsellence.store.codec import encode
from devopsellence.store.errors import Ambiguous
from devopsellence.store.etcd import Compare, Delete, Etcd, Put, TxnResult
from devopsellence.store.keys import EnvironmentRef
from tests.support.cli import Cli

REF = EnvironmentRef("acme", "Shop", "review")
# Names that begin in the same way, or end in it.
OTHERS = [
    EnvironmentRef("acme", "Shop", "review2"),
    EnvironmentRef("acme", "Shop", "r"),
    EnvironmentRef("acme", "Shop2", "review"),
    EnvironmentRef("acme2", "Shop", "review"),
    EnvironmentRef("review", "Shop", "acme"),
]


async def fill(etcd: Etcd, ref: EnvironmentRef, *nodes: str) -> None:
    """Write every kind of record of an environment; on ``nodes`` it runs."""
    keys = etcd.keys
    names: dict[str, Any] = {"organization": ref.organization, "project": ref.project, "environment": ref.environment}
    await etcd.put(keys.environment(ref), encode(Environment(**names, nodes=nodes, latest_release=2)))
    for number in (1, 2):
        await etcd.put(keys.release(ref, number), encode(Release(number=number)))
    await etcd.put(keys.rollout(ref), encode(Rollout(release=2)))
    await etcd.put(keys.secret(ref, "web", "TOKEN"), encode(Secret(service="web", name="TOKEN")))
    await etcd.put(keys.secret(ref, "_registry", "PASSWORD"), encode(Secret(service="_registry", name="PASSWORD")))
    await etcd.put(keys.certificate(ref, "shop.example.com"), encode(Certificate(host="shop.example.com")))
    await etcd.put(keys.event(ref, "1-a"), encode(Event(code="release_created")))
    for node in nodes:
        await etcd.put(keys.assignment(node, ref), encode(Assignment(node=node, **names)))
        status = AssignmentStatus(
            node=node, node_uid=f"uid-{node}", **names, services=[ServiceStatus(name="web", stopping="c1")]
        )
        await etcd.put(keys.status(node, ref), encode(status))
        await etcd.put(keys.ingress(node, ref, "+peers"), encode(NodeIngress(node=node)))


async def keys_of(etcd: Etcd, ref: EnvironmentRef) -> list[str]:
    """Return all keys of an environment."""
    listing = await etcd.list(etcd.keys.prefix, keys_only=True)
    return [item.key for item in listing.items if f"/{ref}/" in f"{item.key}/"]


async def leave(etcd: Etcd, ref: EnvironmentRef, node: str) -> None:
    """Act as the controller after the agent of a detached node has removed everything."""
    keys = etcd.keys
    for key in (keys.assignment(node, ref), keys.status(node, ref), keys.ingress(node, ref, "+peers")):
        await etcd.delete(key)


async def reachable(etcd: Etcd, *nodes: str) -> None:
    keys = etcd.keys
    await etcd.put(keys.candidate(1), encode(Candidate(identity="c0")))
    for node in nodes:
        await etcd.put(keys.node(node), encode(Node(name=node, uid=f"uid-{node}")))
        await etcd.put(keys.heartbeat(node), encode(Heartbeat(node=node, uid=f"uid-{node}")))


def nothing(*_: object) -> None:
    """No progress is of interest."""


def test_everything_of_an_environment_is_deleted_and_nothing_of_another(cli: Cli) -> None:
    async def prepare(etcd: Etcd) -> list[list[str]]:
        await reachable(etcd, "n1")
        await fill(etcd, REF)
        for other in OTHERS:
            await fill(etcd, other, "n1")
        return [await keys_of(etcd, other) for other in OTHERS]

    before = cli.etcd(prepare)
    (_, result) = cli.json_lines("env", "delete", str(REF), "-y")
    assert (result["releases"], result["secrets"], result["certificates"], result["detached"]) == (2, 2, 1, [])

    async def after(etcd: Etcd) -> tuple[list[str], list[list[str]]]:
        return await keys_of(etcd, REF), [await keys_of(etcd, other) for other in OTHERS]

    assert cli.etcd(after) == ([], before)
    listed = [environment["environment"] for environment in cli.json("env", "list")["environments"]]
    assert listed == sorted(map(str, OTHERS))
    assert cli.error("env", "delete", str(REF), "-y")["code"] == "environment_unknown"


def test_attached_environment_is_kept(cli: Cli) -> None:
    async def prepare(etcd: Etcd) -> list[str]:
        await reachable(etcd, "n1")
        await fill(etcd, REF, "n1")
        return await keys_of(etcd, REF)

    before = cli.etcd(prepare)
    error = cli.error("env", "delete", "review", "-y")
    assert error["code"] == "environment_in_use"
    assert "Would delete acme/Shop/review with 2 releases" in cli.ok("env", "delete", "review", "--dry-run")
    assert cli.etcd(lambda etcd: keys_of(etcd, REF)) == before


@pytest.mark.parametrize(("gone", "code"), [("heartbeats", "node_unreachable"), ("election", "no_controller")])
def test_environment_is_kept_while_nobody_could_remove_its_containers(cli: Cli, gone: str, code: str) -> None:
    async def prepare(etcd: Etcd) -> list[str]:
        await reachable(etcd, "n1")
        await fill(etcd, REF, "n1")
        await etcd.delete(etcd.keys.heartbeat("n1") if gone == "heartbeats" else etcd.keys.candidate(1))
        return await keys_of(etcd, REF)

    before = cli.etcd(prepare)
    assert cli.error("env", "delete", "review", "--detach", "-y")["code"] == code
    assert cli.etcd(lambda etcd: keys_of(etcd, REF)) == before


def test_nodes_are_detached_and_waited_for_before_anything_is_deleted(cli: Cli) -> None:
    async def work(etcd: Etcd) -> tuple[list[str], int]:
        await reachable(etcd, "n1", "n2")
        await fill(etcd, REF, "n1", "n2")
        planned = await delete.plan(etcd, REF)
        assert planned.leaves == ("n1", "n2")
        told: asyncio.Queue[str] = asyncio.Queue()
        deleting = asyncio.create_task(
            delete.delete(etcd, planned, lambda sentence, _: told.put_nowait(sentence), seconds=60)
        )
        async with asyncio.timeout(30):
            # It watches once it says what stops.
            assert {(await told.get())[:13] for _ in range(2)} == {"n1 stops web,", "n2 stops web,"}
            await leave(etcd, REF, "n1")
            while not (await told.get()).startswith("n1 runs nothing"):
                pass
            kept = len((await etcd.list(etcd.keys.releases_prefix(REF))).items)
            await leave(etcd, REF, "n2")
            await deleting
        return await keys_of(etcd, REF), kept

    assert cli.etcd(work) == ([], 2)


def test_node_that_removes_nothing_keeps_the_records(cli: Cli) -> None:
    async def work(etcd: Etcd) -> CliError:
        await reachable(etcd, "n1")
        await fill(etcd, REF, "n1")
        with pytest.raises(CliError) as late:
            await delete.delete(etcd, await delete.plan(etcd, REF), nothing, seconds=0.05)
        assert len((await etcd.list(etcd.keys.releases_prefix(REF))).items) == 2
        return late.value

    error = cli.etcd(work)
    assert error.code == "node_detach_timeout"
    assert [finding.message for finding in error.findings] == ["n1: still has web"]


Step = Callable[[Etcd], Awaitable[None]]


class Interrupting:
    """An etcd that runs ``step`` right before the first transaction, and may not confirm it."""

    def __init__(self, etcd: Etcd, step: Step | None = None, *, silent: bool = False) -> None:
        self._etcd = etcd
        self._step = step
        self._silent = silent

    def __getattr__(self, name: str) -> object:
        return getattr(self._etcd, name)

    async def txn(self, compares: list[Compare], operations: list[Put | Delete]) -> TxnResult:
        step, self._step = self._step, None
        if step is not None:
            await step(self._etcd)
        result = await self._etcd.txn(compares, operations)
        if self._silent:
            self._silent = False
            raise Ambiguous("no answer")
        return result


async def attach_again(etcd: Etcd) -> None:
    await fill(etcd, REF, "n1")


async def delete_too(etcd: Etcd) -> None:
    await delete.delete(etcd, await delete.plan(etcd, REF), nothing, seconds=5)


@pytest.mark.parametrize(
    ("step", "silent", "code", "left"),
    [
        (None, False, "", False),
        # Two at once: both find that it is gone.
        (delete_too, False, "", False),
        (None, True, "", False),
        (attach_again, False, "environment_in_use", True),
    ],
    ids=["alone", "two at once", "no answer", "attached meanwhile"],
)
def test_deletion_is_all_or_nothing(cli: Cli, step: Step | None, silent: bool, code: str, left: bool) -> None:
    async def work(etcd: Etcd) -> tuple[str, int]:
        await fill(etcd, REF)
        planned, raised = await delete.plan(etcd, REF), ""
        try:
            await delete.delete(Interrupting(etcd, step, silent=silent), planned, nothing, seconds=5)  # type: ignore[arg-type]
        except CliError as error:
            raised = error.code
        return raised, len(await keys_of(etcd, REF))

    found, count = cli.etcd(work)
    assert found == code
    assert count == (11 if left else 0)


def test_release_written_at_once_is_not_lost(cli: Cli) -> None:
    async def deploy(etcd: Etcd) -> None:
        key = etcd.keys.environment(REF)
        await transaction.change(etcd, key, Environment, lambda _: Environment(latest_release=3, nodes=["n1"]))
        await etcd.put(etcd.keys.release(REF, 3), encode(Release(number=3)))

    async def work(etcd: Etcd) -> int:
        await fill(etcd, REF)
        with pytest.raises(CliError, match="is attached to n1"):
            await delete.delete(Interrupting(etcd, deploy), await delete.plan(etcd, REF), nothing, seconds=5)  # type: ignore[arg-type]
        return len((await etcd.list(etcd.keys.releases_prefix(REF))).items)

    assert cli.etcd(work) == 3


def test_leftovers_without_a_record_are_listed_and_deleted(cli: Cli) -> None:
    async def prepare(etcd: Etcd) -> None:
        await fill(etcd, REF)
        await etcd.delete(etcd.keys.environment(REF))

    cli.etcd(prepare)
    assert f"has no record, but others are left: devopsellence env delete {REF}" in cli.ok("env", "list")
    cli.ok("env", "delete", str(REF), "-y")
    assert cli.etcd(lambda etcd: keys_of(etcd, REF)) == []


def test_unreadable_record_is_not_deleted_blindly(cli: Cli) -> None:
    cli.write(lambda etcd: etcd.keys.environment(REF), b"{")
    assert cli.error("env", "delete", str(REF), "-y")["code"] == "record_unreadable"
    assert "its record cannot be read" in cli.ok("env", "list")


def test_option_and_argument_must_name_the_same_environment(cli: Cli) -> None:
    assert cli.error("env", "delete", "review", "--env", "production", "-y")["exit_code"] == 2


def test_detached_node_is_said_to_run_on_until_its_agent_has_stopped_the_services(cli: Cli) -> None:
    async def prepare(etcd: Etcd) -> None:
        await reachable(etcd, "n1")
        await fill(etcd, REF, "n1")

    cli.etcd(prepare)
    result = cli.json("node", "detach", "n1", "-y")
    assert result["leaving"] == ["web"]
    follow = f"devopsellence node detach n1 --env {REF} --wait -y"
    assert [step["command"] for step in result["next_actions"]] == [follow]
    # Detached, and not gone yet.
    error = cli.error("node", "detach", "n1", "-y")
    assert error["code"] == "node_not_attached"
    assert "its agent still has to remove web" in error["message"]
    assert cli.error("node", "detach", "n1", "-y", "--wait", "--timeout", "1s")["code"] == "node_detach_timeout"
    cli.etcd(lambda etcd: leave(etcd, REF, "n1"))
    assert cli.error("node", "detach", "n1", "-y", "--wait")["code"] == "node_not_attached"


def test_node_that_runs_nothing_is_detached_at_once(cli: Cli) -> None:
    cli.ok("node", "register", "n1")
    cli.ok("node", "attach", "n1", "--env", str(REF))
    assert "has removed its containers" in cli.ok("node", "detach", "n1", "-y", "--wait")


def test_replaced_node_needs_no_attach(cli: Cli) -> None:
    cli.ok("node", "register", "n1")
    cli.ok("node", "attach", "n1", "--env", str(REF))
    text = cli.ok("node", "register", "n1", "--replace", "-y")
    assert "node attach" not in text
    assert f"It is attached to {REF}, as before." in text
    assert text.splitlines()[-1] == "Then here, to see it take up its work: devopsellence node list"
    assert cli.json("node", "register", "n1")["environments"] == [str(REF)]
