"""``ingress check``: check DNS, ports, certificates and responses; with ``--wait``, repeat failed checks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_delay, wait_random_exponential

from devopsellence.agent_identity import api_address
from devopsellence.api.v1.stored_pb2 import Assignment, Certificate, Heartbeat, IngressStatus, Node
from devopsellence.api.v1.workload_pb2 import Ingress
from devopsellence.cli.ingress import check_findings, probe
from devopsellence.cli.ingress.dns import CachingResolver, addresses, preferred_address
from devopsellence.cli.output import CheckResult, CliError, NextAction
from devopsellence.cli.render import ingress as ingress_view
from devopsellence.cli.store.reader import Reader, concurrently, snapshot
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

T = TypeVar("T")
#: Subject of a check: a host, or "" for the nodes.
NODES: Final = ""
Results = dict[str, list[CheckResult]]
_DNS_SECONDS: Final = 5.0
_AT_A_TIME: Final = 16
_LONGEST_PAUSE: Final = 10.0


@dataclass(frozen=True)
class IngressView:
    """Ingress of an environment as stored in etcd.

    ``nodes`` has the status of the serving nodes (None: not reported yet), ``addresses`` the addresses of
    these nodes, "" if not known.
    """

    ingress: Ingress
    nodes: Mapping[str, IngressStatus | None]
    addresses: Mapping[str, str]
    certificates: Mapping[str, Certificate]

    def certificate(self, host: str) -> Certificate | None:
        """Return the certificate to be served for ``host``; None without a certificate, or with TLS off."""
        certificate = self.certificates.get(host)
        wanted = self.ingress.tls_mode != Ingress.OFF
        return certificate if wanted and certificate is not None and certificate.chain_pem else None


async def read_ingress(etcd: Etcd, ref: EnvironmentRef) -> IngressView:
    """Read the ingress of an environment.

    Raises:
        CliError: ``ingress_none``: the environment has no ingress.
    """
    state = await snapshot(etcd, ref)
    ingress = ingress_view.ingress_of(state)
    if ingress is None:
        raise no_ingress(ref)
    keys = {name: etcd.keys.assignment(name, ref) for name in state.nodes}
    assigned = await Reader(etcd).get_many_under(etcd.keys.all_assignments_prefix, keys, Assignment)
    statuses = ingress_view.ingress_statuses(state.statuses)
    names = sorted(
        {name for name, assignment in assigned.items() if assignment.HasField("ingress")} | (statuses.keys() & assigned)
    )
    addresses = {name: address_of(state.nodes.get(name), (state.heartbeats or {}).get(name)) for name in names}
    return IngressView(
        ingress, {name: _answering(state, name, statuses) for name in names}, addresses, state.certificates
    )


def _answering(state: Snapshot, name: str, statuses: Mapping[str, IngressStatus]) -> IngressStatus | None:
    """Return the status of the node; marked as possibly out of date if the node is unreachable."""
    status = statuses.get(name)
    if status is None or (state.heartbeats is not None and name in state.heartbeats):
        return status
    outdated = IngressStatus()
    outdated.CopyFrom(status)
    outdated.reason = "; ".join(filter(None, ["the node is unreachable, so this may be out of date", status.reason]))
    return outdated


def address_of(node: Node | None, beat: Heartbeat | None) -> str:
    """Return the address of a node: as registered, else the host of its API address, else ""."""
    if node is not None and node.address:
        return node.address
    endpoint = api_address("", beat.api_address) if beat is not None else ""
    return endpoint.rpartition(":")[0].strip("[]")


def no_ingress(ref: EnvironmentRef) -> CliError:
    """Return the error for an environment without an ingress."""
    actions = [
        NextAction("add an ingress", "devopsellence ingress set --host app.example.com"),
        NextAction("then", "devopsellence deploy"),
    ]
    return CliError("ingress_none", f"{ref} runs no release with an ingress", next_actions=actions)


class IngressCheck:
    """Runner of all checks; ``server`` is the DNS resolver to ask, "" for that of the system."""

    def __init__(self, etcd: Etcd, ref: EnvironmentRef, server: str) -> None:
        self._etcd = etcd
        self._ref = ref
        self._server = server
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        self._trusted = probe.trust_store()
        self.results: Results = {}

    @property
    def checks(self) -> list[CheckResult]:
        """All results, those about nodes first."""
        return [check for checks in self.results.values() for check in checks]

    async def all(self) -> None:
        """Run all checks."""
        view = await read_ingress(self._etcd, self._ref)
        self.results = await self._run(view, [NODES, *view.ingress.hosts])

    async def wait(self, seconds: float, tell: Callable[[CheckResult], None]) -> None:
        """Repeat failed checks until none fails, at most for ``seconds``; ``tell`` is called with changed results."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(_NotYet),
            wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_PAUSE),
            stop=stop_after_delay(seconds),
        )
        try:
            async for attempt in attempts:
                with attempt:
                    await self._repeat_failed(tell)
        except RetryError:
            return

    async def _repeat_failed(self, tell: Callable[[CheckResult], None]) -> None:
        again = [about for about, checks in self.results.items() if check_findings.failed_results(checks)]
        if not again:
            return
        view = await read_ingress(self._etcd, self._ref)
        hosts = set(view.ingress.hosts)
        before = set(self.checks)
        repeated = await self._run(view, [about for about in again if about == NODES or about in hosts])
        self.results = {about: repeated.get(about, checks) for about, checks in self.results.items()}
        for about in self.results.keys() - hosts - {NODES}:
            # Removed by a release meanwhile.
            del self.results[about]
        for check in self.checks:
            if check not in before:
                tell(check)
        if check_findings.failed_results(self.checks):
            raise _NotYet

    async def _run(self, view: IngressView, about: Iterable[str]) -> Results:
        names = CachingResolver(self._server, seconds=_DNS_SECONDS)
        known = await addresses(names, view.addresses)
        # A name without DNS records may still be known to this machine.
        view = replace(
            view,
            addresses={node: preferred_address(known[node]) or address for node, address in view.addresses.items()},
        )
        # Also needed for checks of hosts, which skip nodes with closed ports.
        ports = await self._ports(view)
        wanted = list(about)
        hosts = [host for host in wanted if host != NODES]
        host_results = await concurrently(self._host(view, host, names, known, ports) for host in hosts)
        results: Results = {NODES: _nodes(view, ports)} if NODES in wanted else {}
        return results | dict(zip(hosts, host_results, strict=True))

    async def _ports(self, view: IngressView) -> dict[str, dict[int, str]]:
        """Return the connection error by node and port; "" for an open port."""
        asked = [
            (name, port)
            for name, status in view.nodes.items()
            if status is not None and view.addresses[name]
            for port in (status.http_port, status.https_port)
            if port
        ]
        reasons = await concurrently(
            self._blocking(probe.reachable, view.addresses[name], port) for name, port in asked
        )
        result: dict[str, dict[int, str]] = {name: {} for name in view.nodes}
        for (name, port), why in zip(asked, reasons, strict=True):
            result[name][port] = why
        return result

    async def _host(
        self,
        view: IngressView,
        host: str,
        names: CachingResolver,
        known: Mapping[str, frozenset[str]],
        ports: Mapping[str, Mapping[int, str]],
    ) -> list[CheckResult]:
        now, certificate = datetime.now(UTC), view.certificate(host)
        checks = [check_findings.dns_result(host, await names.find(host), known)]
        checks += check_findings.stored_certificate_results(
            view.ingress, host, certificate or view.certificates.get(host), now
        )
        http, https = _open(view, ports, "http_port"), _open(view, ports, "https_port")
        prefixes = [rule.path_prefix for rule in view.ingress.rules if rule.host == host]
        if not prefixes:
            return [
                *checks,
                CheckResult(
                    f"rules of {host}", "warning", "no rule for this host: requests get a 404", "ingress_no_rule"
                ),
            ]
        path = min(prefixes, key=len)
        if certificate is None:
            plain = await self._probe_nodes(http, probe.answer, host, path, secure=False)
            return checks + check_findings.answer_results(host, path, plain, secure=False)
        shown, answers, redirects = await asyncio.gather(
            self._probe_nodes(https, probe.certificate, host, self._trusted),
            self._probe_nodes(https, probe.answer, host, path, secure=True),
            self._probe_nodes(http if view.ingress.redirect_http else {}, probe.answer, host, path, secure=False),
        )
        checks += check_findings.served_certificate_results(host, certificate, shown, now)
        checks += check_findings.answer_results(host, path, answers, secure=True)
        return checks + check_findings.redirect_results(host, path, redirects)

    async def _probe_nodes(
        self, targets: Mapping[str, tuple[str, int]], probe: Callable[..., T], *about: object, **how: object
    ) -> dict[str, T]:
        """Run a probe for every node and return the results by node."""
        results = await concurrently(self._blocking(probe, *targets[name], *about, **how) for name in targets)
        return dict(zip(targets, results, strict=True))

    async def _blocking(self, probe: Callable[..., T], *about: object, **how: object) -> T:
        async with self._slots:
            return await asyncio.to_thread(probe, *about, **how)


class _NotYet(Exception):
    """A check still fails."""


def _open(view: IngressView, ports: Mapping[str, Mapping[int, str]], which: str) -> dict[str, tuple[str, int]]:
    """Return address and port of the nodes with the port open."""
    open_ports = {}
    for name, status in view.nodes.items():
        port = getattr(status, which) if status is not None else 0
        if ports[name].get(port) == "":
            open_ports[name] = (view.addresses[name], port)
    return open_ports


def _nodes(view: IngressView, ports: Mapping[str, Mapping[int, str]]) -> list[CheckResult]:
    if not view.nodes:
        services = ", ".join(sorted({rule.service for rule in view.ingress.rules}))
        message = f"no node serves the ingress: no node is assigned all of {services}"
        fix = NextAction("see services and nodes", "devopsellence status")
        return [CheckResult("nodes", "error", message, "ingress_nowhere", (fix,))]
    secure = any(view.certificate(host) is not None for host in view.ingress.hosts)
    return [
        check
        for name, status in view.nodes.items()
        for check in check_findings.node_results(name, status, view.addresses[name], ports[name], secure=secure)
    ]
