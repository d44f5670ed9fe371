"""The checks of ``doctor``. A check returns results instead of raising errors.

``machine`` checks this machine, ``etcd`` and ``server_certificates`` gateways and etcd, ``cluster`` the records in
etcd, ``agents`` the agents of the nodes, ``audit_trail`` that of each gateway. No repair of problems here: a result
names the command that fixes the problem.
``cluster`` is covered by tests/integration/cli/test_doctor.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from devopsellence.cli import context, errors, reach, signals
from devopsellence.cli.choice import choose
from devopsellence.cli.doctor import machine
from devopsellence.cli.output import CheckResult, CliError
from devopsellence.store.errors import StoreError

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

__all__ = ["CheckResult", "all_checks"]


def all_checks(ctx: click.Context) -> list[CheckResult]:
    """Run all checks and return their results in order of dependence."""
    results = [machine.configuration()]
    try:
        choice = choose(ctx)
    except CliError as error:
        return [*results, signals.run(machine.docker(None)), CheckResult.from_error("etcd", error)]
    settings = choice.settings
    results.append(CheckResult("cluster", "ok", str(choice)))
    dev = context.dev_node(settings)
    results.append(signals.run(machine.docker(dev.docker_host if dev else None)))
    results += machine.certificates(settings, datetime.datetime.now(datetime.UTC))
    try:
        reach.prepare(settings)
    except CliError as error:
        return [*results, CheckResult.from_error("ssh", error)]
    if (host := reach.ssh_host(settings)) is not None:
        results.append(CheckResult("ssh", "ok", f"connected to {host}"))
    return results + signals.run(_cluster(settings))


async def _cluster(settings: Settings) -> list[CheckResult]:
    from devopsellence.cli.doctor import agents, audit_trail, cluster, server_certificates
    from devopsellence.cli.doctor.etcd import etcd_results
    from devopsellence.store.etcd import Etcd

    # Before the connection: an expired certificate of a server may be the reason why there is none.
    certificates = await server_certificates.server_certificates(settings)
    results = server_certificates.certificate_results(certificates, datetime.datetime.now(datetime.UTC))
    gateways = server_certificates.gateways_among(settings.endpoints, certificates)
    try:
        async with Etcd(settings, timeout=context.CALL_TIMEOUT) as etcd:
            results += await etcd_results(etcd, settings, gateways)
            for name, check in (
                ("controller", cluster.controller),
                ("nodes", cluster.nodes),
                ("certificates", cluster.certificates),
                ("ingress", cluster.ingress),
                ("agents", lambda etcd: agents.api_results(etcd, settings)),
                ("audit trail", audit_trail.audit_results),
                ("identity", agents.identity_results),
            ):
                results += await _guarded(name, check, etcd, settings)
            return results
    except StoreError as error:
        return [*results, CheckResult.from_error("etcd", _explained(error, settings))]


async def _guarded(
    name: str, check: Callable[[Etcd], Awaitable[list[CheckResult]]], etcd: Etcd, settings: Settings
) -> list[CheckResult]:
    try:
        return await check(etcd)
    except StoreError as error:
        return [CheckResult.from_error(name, _explained(error, settings))]


def _explained(error: StoreError, settings: Settings) -> CliError:
    return errors.of_store(error, where=reach.described(settings), dev=context.is_dev(settings))
