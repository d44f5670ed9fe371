"""Roles at the agent's API: every call by every role, own and other environments, and access that is withdrawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import grpc
import grpc.aio
import pytest
from cryptography import x509

from devopsellence.access.policy import AccessPolicy
from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1.agent_pb2 import (
    DiagnoseRequest,
    FindImagesRequest,
    LoadImageRequest,
    LogsRequest,
    RunRequest,
    SendLayerRequest,
)
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList
from devopsellence.cli.agent.client import wait_accepted
from tests.integration.agentapi.api_node import ENV, ApiNode, command, execute, next_answer
from tests.support.until import eventually

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub

    Call: TypeAlias = Callable[[AgentAsyncStub], Awaitable[object]]

pytestmark = pytest.mark.docker

OWN = str(ENV)


def policy(*grants: tuple[Role, str], denied: DeniedCertificate | None = None) -> AccessPolicy:
    """Return the policy in which ann has these roles."""
    denials = DenyList(certificates=[denied] if denied is not None else [])
    return AccessPolicy({"ann": record_of("ann", Rights(frozenset(grants)))}, denials)


async def logs(stub: AgentAsyncStub) -> object:
    return await stub.Logs(LogsRequest(environment=OWN)).read()


async def run_task(stub: AgentAsyncStub) -> object:
    async def requests() -> AsyncIterator[RunRequest]:
        await wait_accepted(call)
        start = RunRequest()
        start.start.environment = OWN
        start.start.task.service, start.start.task.name = "web", "missing"
        yield start

    call = stub.RunTask(requests())
    return await call.read()


async def send_layer(stub: AgentAsyncStub) -> object:
    return await stub.SendLayer(iter([SendLayerRequest()]))


#: Calls, and the roles that permit them, written by hand.
CALLS: dict[str, tuple[Call, set[Role]]] = {
    "Logs": (logs, {Role.DEPLOYER}),
    "Exec": (lambda stub: execute(stub, command("web", "true")), {Role.EXEC}),
    "RunTask": (run_task, {Role.EXEC}),
    "Diagnose": (lambda stub: stub.Diagnose(DiagnoseRequest()), set(Role)),
    "FindImages": (lambda stub: stub.FindImages(FindImagesRequest()), {Role.DEPLOYER}),
    "LoadImage": (lambda stub: stub.LoadImage(LoadImageRequest()), {Role.DEPLOYER}),
    "SendLayer": (send_layer, {Role.DEPLOYER}),
}
OF_AN_ENVIRONMENT = {"Logs", "Exec", "RunTask"}


async def refusal(call: Awaitable[object]) -> str:
    """Return why a call is denied, "" if it is not: what it answers otherwise does not matter here."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.PERMISSION_DENIED:
            return str(error.details())
    return ""


async def test_every_call_by_every_role(here: ApiNode) -> None:
    await here.start("web", "sh", "-c", "echo hello; exec sleep 1000")
    async with here.client() as stub:
        for role in Role:
            for name, (call, roles) in CALLS.items():
                for where in (OWN, "acme/*", "*"):
                    here.permit(policy((role, where)))
                    assert (await refusal(call(stub)) == "") is (role in roles), (name, role, where)
                here.permit(policy((role, "acme/shop/staging")))
                elsewhere = await refusal(call(stub))
                assert (elsewhere == "") is (role in roles and name not in OF_AN_ENVIRONMENT), (name, role)


async def test_root_is_unrestricted_and_others_need_a_record(here: ApiNode) -> None:
    await here.start("web", "sh", "-c", "echo hello; exec sleep 1000")
    here.permit(AccessPolicy())
    async with here.client() as ann, here.client(here.authority.issue("root")) as root:
        for call, _ in CALLS.values():
            assert await refusal(call(ann)) == "operator 'ann' has been granted no access"
            assert await refusal(call(root)) == ""
        here.access.policy = None
        for call, _ in CALLS.values():
            assert await refusal(call(ann)) == ""


async def test_refusal_names_role_and_environment_but_no_environment_of_others(here: ApiNode) -> None:
    await here.start("web", "sleep", "1000")
    here.permit(policy((Role.DEPLOYER, "acme/shop/staging"), (Role.VIEWER, OWN)))
    async with here.client() as stub:
        assert await refusal(logs(stub)) == f"operator ann lacks the role deployer in the environment {OWN}"
        here.permit(policy((Role.DEPLOYER, "acme/shop/staging")))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Logs(LogsRequest(environment="acme/shop/staging")).read()
        assert caught.value.details() == "environment acme/shop/staging is not on node n1; environments here: none"


async def test_diagnosis_names_no_environment_of_others(here: ApiNode) -> None:
    here.assignments.problems[ENV] = "malformed"
    async with here.client() as stub:
        for where, message in (
            (OWN, f"{OWN}: malformed"),
            ("acme/shop/staging", "1 in environments that you may not view"),
        ):
            here.permit(policy((Role.VIEWER, where)))
            answer = await stub.Diagnose(DiagnoseRequest())
            assert [check.message for check in answer.checks if check.name == "assignments"] == [message]
            assert (OWN in str(answer)) is (where == OWN)


async def test_denied_certificates_are_refused_by_name_and_by_serial_number(here: ApiNode) -> None:
    full = (Role.DEPLOYER, "*"), (Role.EXEC, "*")
    first, second = here.authority.issue("operator:ann"), here.authority.issue("operator:ann")
    serial = f"{x509.load_pem_x509_certificate(first.certificate.read_bytes()).serial_number:x}"
    async with here.client(first) as stolen, here.client(second) as renewed:
        here.permit(policy(*full, denied=DeniedCertificate(serial=serial, reason="stolen")))
        refused = await refusal(stolen.Diagnose(DiagnoseRequest()))
        assert refused == f"the certificate of operator:ann with the serial number {serial} is denied: stolen"
        assert await refusal(renewed.Diagnose(DiagnoseRequest())) == ""
        here.permit(policy(*full, denied=DeniedCertificate(name="operator:ann")))
        assert await refusal(renewed.Diagnose(DiagnoseRequest())) == "the certificate of operator:ann is denied"


@pytest.mark.parametrize(
    "after",
    [
        policy((Role.VIEWER, "*")),
        policy((Role.DEPLOYER, "acme/shop/staging"), (Role.EXEC, "acme/shop/staging")),
        AccessPolicy(),
        policy((Role.DEPLOYER, "*"), (Role.EXEC, "*"), denied=DeniedCertificate(name="operator:ann")),
    ],
)
async def test_withdrawn_access_ends_open_calls_and_their_commands(here: ApiNode, after: AccessPolicy) -> None:
    await here.start("web", "sh", "-c", "echo hello; exec sleep 1000")
    here.permit(policy((Role.DEPLOYER, "*"), (Role.EXEC, OWN)))
    async with here.client() as stub, here.client(here.authority.issue("root")) as root, asyncio.timeout(20):

        async def requests() -> AsyncIterator[RunRequest]:
            await wait_accepted(shell)
            yield command("web", "sh", "-c", "echo $$; exec sleep 999", interactive=True)
            await asyncio.Event().wait()

        shell = stub.Exec(requests())
        follow, roots = (who.Logs(LogsRequest(environment=OWN, follow=True, lines=-1)) for who in (stub, root))
        while not (await next_answer(shell)).stdout:
            pass
        for tail in (follow, roots):
            assert await tail.read() is not grpc.aio.EOF
        # Access to something else changes nothing.
        here.permit(policy((Role.DEPLOYER, OWN), (Role.EXEC, "*")))
        await asyncio.sleep(0.2)
        assert [call.done() for call in (shell, follow)] == [False, False]
        here.permit(after)
        for call in (shell, follow):
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
        assert not roots.done()
        processes = partial(execute, root, command("web", "ps"))
        await eventually("the command has ended", processes, lambda found: b"sleep 999" not in found.stdout)
        roots.cancel()
