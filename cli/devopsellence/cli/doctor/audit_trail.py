"""Checks of the audit trail: every gateway keeps one, and can write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import grpc

from devopsellence.api.v1.audit_pb2 import AuditRequest
from devopsellence.cli.audit import client
from devopsellence.cli.audit.client import GatewayAnswer
from devopsellence.cli.output import CheckResult, NextAction
from devopsellence.cli.util.text import plural

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd

_NAME = "audit trail"


async def audit_results(etcd: Etcd) -> list[CheckResult]:
    """Check the audit trail of each gateway; nothing without a certificate, because there are no gateways then."""
    if etcd.settings.cert is None:
        return []
    request = AuditRequest(limit=1)
    return trail_results(await client.ask_all(etcd.settings, await client.gateways(etcd), request))


def trail_results(answers: Iterable[GatewayAnswer]) -> list[CheckResult]:
    """Return the results for the answers of all gateways. Pure.

    Left out are those that do not answer, which another check names, and etcd itself.
    """
    results: list[CheckResult] = []
    kept: list[str] = []
    for answer in answers:
        name = f"{_NAME} {answer.address}"
        if answer.code is grpc.StatusCode.FAILED_PRECONDITION:
            fix = NextAction("keep one: start the controller with", "--audit-dir <folder>")
            results.append(CheckResult(name, "warning", answer.problem, "audit_trail_off", (fix,)))
        elif answer.code is None and answer.problem:
            results.append(CheckResult(name, "error", answer.problem, "audit_trail_not_written"))
        elif answer.code is None:
            kept.append(answer.address)
    return [*_kept(kept), *results]


def _kept(addresses: Sequence[str]) -> list[CheckResult]:
    message = f"kept by {plural(len(addresses), 'gateway')}"
    return [CheckResult(_NAME, "ok", message)] if addresses else []
