"""Audit of the agent's API: each call with its caller, address and request, allowed or refused; no secret in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from devopsellence.access.policy import AccessPolicy
from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1 import workload_pb2
from devopsellence.api.v1.agent_pb2 import DiagnoseRequest, RunRequest
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList
from devopsellence.cli.agent.client import wait_accepted
from tests.integration.agentapi.api_node import ENV, ApiNode, CommandResult, command, execute, first_output
from tests.integration.agentapi.test_rights import CALLS
from tests.support.images import small_image
from tests.support.until import eventually

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub
    from tests.integration.agentapi.api_node import Call

pytestmark = pytest.mark.docker

EXEC = f"exec in web of {ENV}"


def policy(*roles: Role) -> AccessPolicy:
    return AccessPolicy({"ann": record_of("ann", Rights(frozenset((role, str(ENV)) for role in roles)))})


def told(entries: Iterable[AuditEntry]) -> list[tuple[str, str, str]]:
    """Return call, outcome and summary of each entry."""
    return [(entry.call, AuditEntry.Outcome.Name(entry.outcome), entry.summary) for entry in entries]


async def ends_denied(call: Awaitable[object]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_command_is_told_with_its_arguments_and_exit_code(here: ApiNode) -> None:
    await here.start("web", "sleep", "1000")
    async with here.client() as stub:
        assert (await execute(stub, command("web", "sh", "-c", "exit 7"))).exit_code == 7
    assert told(here.audit) == [("Exec", "ALLOWED", EXEC), ("Exec", "ENDED", EXEC)]
    begin, end = here.audit
    assert list(begin.command) == ["sh", "-c", "exit 7"]
    assert (begin.caller, begin.peer.partition(":")[0], list(begin.services)) == ("operator:ann", "127.0.0.1", ["web"])
    assert begin.serial
    assert list(begin.environments) == [str(ENV)]
    assert (end.exit_code, end.begin) == (7, begin.id)


async def test_arguments_are_told_without_the_secrets_of_the_service(here: ApiNode) -> None:
    service = workload_pb2.Service(name="web", kind=workload_pb2.Service.WORKER)
    here.assign(service, secrets={"TOKEN": b"s3cret-value"})
    await here.start("web", "sleep", "1000")
    async with here.client() as stub:
        result = await execute(stub, command("web", "echo", "--token=s3cret-value", "plain"))
    assert result.stdout == b"--token=s3cret-value plain\n"
    here.permit(policy(Role.VIEWER))
    async with here.client() as stub:
        await ends_denied(execute(stub, command("web", "echo", "s3cret-value")))
    assert [list(entry.command) for entry in here.audit] == [
        ["echo", "--token=[secret]", "plain"],
        ["echo", "--token=[secret]", "plain"],
        ["echo", "[not shown]"],
    ]
    assert here.audit[-1].outcome == AuditEntry.REFUSED
    assert not any(b"s3cret-value" in entry.SerializeToString() for entry in here.audit)


async def test_every_call_is_told_and_every_refusal(here: ApiNode) -> None:
    await here.start("web", "sh", "-c", "echo hello; sleep 1000")
    here.permit(AccessPolicy())
    async with here.client() as stub:
        for call, _ in CALLS.values():
            await ends_denied(call(stub))
    assert told(here.audit) == [
        ("Logs", "REFUSED", f"read the logs of all services in {ENV}"),
        ("Exec", "REFUSED", EXEC),
        ("RunTask", "REFUSED", f"run task missing in web of {ENV}"),
        ("Diagnose", "REFUSED", "diagnose the node"),
        ("FindImages", "REFUSED", "look for images"),
        ("LoadImage", "REFUSED", "load the image "),
        ("SendLayer", "REFUSED", "send a layer of an image"),
    ]
    assert {entry.reason for entry in here.audit} == {"operator 'ann' has been granted no access"}
    here.audit.clear()
    here.permit(policy(Role.DEPLOYER, Role.EXEC))
    async with here.client() as stub:
        for name in ("Logs", "Diagnose"):
            await CALLS[name][0](stub)
    assert told(here.audit) == [
        ("Logs", "ALLOWED", f"read the logs of all services in {ENV}"),
        ("Diagnose", "ALLOWED", "diagnose the node"),
    ]


async def test_refusals_before_any_handler_are_told(here: ApiNode) -> None:
    async with here.client(here.authority.issue("node:other")) as stub:
        await ends_denied(stub.Diagnose(DiagnoseRequest()))
    here.permit(AccessPolicy(denied=DenyList(certificates=[DeniedCertificate(name="operator:ann", reason="left")])))
    async with here.client() as stub:
        await ends_denied(stub.Diagnose(DiagnoseRequest()))
    assert [(entry.caller, entry.call, entry.reason) for entry in here.audit] == [
        ("node:other", "Diagnose", "only operators may call the agent API; this is the certificate of node:other"),
        ("operator:ann", "Diagnose", "the certificate of operator:ann is denied: left"),
    ]


async def test_command_whose_caller_goes_or_loses_access_is_told_as_cut_off(here: ApiNode) -> None:
    await here.start("web", "sleep", "1000")

    async def running(stub: AgentAsyncStub) -> Call:
        async def requests() -> AsyncIterator[RunRequest]:
            await wait_accepted(call)
            yield command("web", "sh", "-c", "echo up; sleep 1000")
            await asyncio.Event().wait()

        call = stub.Exec(requests())
        await first_output(call, CommandResult())
        return call

    async def count() -> int:
        return len(here.audit)

    async with here.client() as stub:
        call = await running(stub)
        call.cancel()
        await eventually("the end is told", count, lambda entries: entries == 2)
        call = await running(stub)
        here.permit(policy(Role.VIEWER))
        await eventually("the refusal is told", count, lambda entries: entries == 5)
    assert [AuditEntry.Outcome.Name(entry.outcome) for entry in here.audit] == [
        *("ALLOWED", "ENDED"),
        *("ALLOWED", "ENDED", "REFUSED"),
    ]
    assert here.audit[1].reason == here.audit[3].reason == "the call was cut off"
    assert here.audit[4].begin == here.audit[2].id


async def test_command_that_cannot_be_run_is_told_as_failed(here: ApiNode) -> None:
    here.assign(workload_pb2.Service(name="web", image=workload_pb2.Image(pinned=small_image())))
    async with here.client() as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="no container of web is running"):
            await execute(stub, command("web", "true"))
    (entry,) = here.audit
    assert (entry.outcome, list(entry.command)) == (AuditEntry.FAILED, ["true"])
