"""Audit of API calls: begin and end of a command, refusals, arguments without secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import pytest

from devopsellence.access.certificate import Certificate
from devopsellence.api.v1.agent_pb2 import RunAnswer
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import CallSource
from devopsellence.nodeagent.api.audit import AuditedCall, CallAudit, audited_call, masked
from devopsellence.nodeagent.api.auth import CallRefused

WHERE = "acme/shop/production"
DENIED = CallRefused(grpc.StatusCode.PERMISSION_DENIED, "operator ann lacks the role exec")
NOT_RUNNING = CallRefused(grpc.StatusCode.FAILED_PRECONDITION, "no container of web is running")


class Entries(list[AuditEntry]):
    def add(self, entry: AuditEntry) -> None:
        self.append(entry)


async def known(_environment: str, service: str) -> Sequence[str]:
    return ["hunter22"] if service == "web" else []


def made() -> tuple[Entries, CallAudit, AuditedCall]:
    entries = Entries()
    call = AuditedCall(CallSource(Certificate("operator:ann", "1f"), "10.0.0.9:1"), "Exec")
    call.about(f"exec in web of {WHERE}", WHERE, ["web"], ["login", "--password=hunter22"])
    return entries, CallAudit(entries, known), call


async def sent(_answer: RunAnswer) -> None:
    pass


async def test_command_has_an_entry_at_its_begin_and_one_with_its_exit_code() -> None:
    entries, audit, call = made()
    async with audit.during(call):
        assert [entry.outcome for entry in entries] == [AuditEntry.ALLOWED]
        await call.noting_exit(sent)(RunAnswer(stdout=b"x"))
        await call.noting_exit(sent)(RunAnswer(exit_code=3))
    begin, end = entries
    assert list(begin.command) == ["login", "--password=[secret]"]
    assert (begin.caller, begin.peer) == ("operator:ann", "10.0.0.9:1")
    assert (list(begin.environments), list(begin.services)) == ([WHERE], ["web"])
    assert (end.outcome, end.exit_code, end.begin, end.reason) == (AuditEntry.ENDED, 3, begin.id, "")
    assert list(end.command) == list(begin.command)


async def test_command_that_fails_or_is_cut_off_says_so() -> None:
    entries, audit, call = made()
    with pytest.raises(CallRefused):
        async with audit.during(call):
            raise NOT_RUNNING
    # The refusal that follows is the same.
    await audit.refused(call, NOT_RUNNING)
    assert [(entry.outcome, entry.reason) for entry in entries[1:]] == [(AuditEntry.ENDED, NOT_RUNNING.message)]
    entries, audit, call = made()
    with pytest.raises(asyncio.CancelledError):
        async with audit.during(call):
            raise asyncio.CancelledError
    assert entries[-1].reason == "the call was cut off"
    assert not entries[-1].HasField("exit_code")
    # Because the access was withdrawn.
    await audit.refused(call, DENIED)
    assert (entries[-1].outcome, entries[-1].begin) == (AuditEntry.REFUSED, entries[0].id)


@pytest.mark.parametrize(
    ("refused", "outcome", "argument"),
    [(DENIED, AuditEntry.REFUSED, "[not shown]"), (NOT_RUNNING, AuditEntry.FAILED, "--password=[secret]")],
    ids=["denied", "failed"],
)
async def test_refused_command_tells_its_caller_nothing_of_secrets(
    refused: CallRefused, outcome: AuditEntry.Outcome.ValueType, argument: str
) -> None:
    entries, audit, call = made()
    await audit.refused(call, refused)
    (entry,) = entries
    assert (entry.outcome, entry.reason) == (outcome, refused.message)
    assert list(entry.command) == ["login", argument]


async def test_refusals_are_limited() -> None:
    entries, audit, call = made()
    for _ in range(1000):
        await audit.refused(call, DENIED)
    assert len(entries) < 60


def test_call_is_named_by_the_certificate() -> None:
    identities = {"x509_common_name": [b"operator:ann"]}
    call = audited_call(identities, "ipv4:10.0.0.9:1", "/devopsellence.api.v1.Agent/Exec")
    assert (call.certificate.common_name, call.method, call.source.peer) == ("operator:ann", "Exec", "10.0.0.9:1")
    assert audited_call({}, "", "").certificate.common_name == "nobody"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["a", "b"], ("a", "b")),
        (["hunter22"], ("[secret]",)),
        (["redis://:hunter22@redis/0"], ("redis://:[secret]@redis/0",)),
        # Of a value with several lines, each line as well; a short value is part of too many words.
        (["--key=line one", "no"], ("--key=[secret]", "no")),
        (["schön hunter22 ☃"], ("schön [secret] ☃",)),
    ],
)
def test_masked_arguments(arguments: list[str], shown: tuple[str, ...]) -> None:
    assert masked(arguments, ["hunter22", "line one\nline two", "no"]) == shown
