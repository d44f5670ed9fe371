"""``ingress check``: everything is looked at once, and with ``--wait`` what failed again, until all is well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_delay, wait_random_exponential

from devopsellence.agent_identity import answers_at
from devopsellence.api.v1.stored_pb2 import Assignment, Certificate, Heartbeat, IngressStatus, Node
from devopsellence.api.v1.workload_pb2 import Ingress
from devopsellence.cli.ingress import check_findings
from devopsellence.cli.ingress import probe as probing
from devopsellence.cli.ingress.dns import CachingResolver, addresses, preferred_address
from devopsellence.cli.output import CheckResult, CliError, NextAction
from devopsellence.cli.render import ingress as view
from devopsellence.cli.store.reader import Reader, concurrently, snapshot
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

T = TypeVar("T")
#: What each check is about: a host, or the nodes as a whole.
NODES: Final = ""
Results = dict[str, list[CheckResult]]
_DNS_SECONDS: Final = 5.0
_AT_A_TIME: Final = 16
_LONGEST_PAUSE: Final = 10.0


@dataclass(frozen=True)
class IngressView:
    """What etcd says of an environment's ingress at one time.

    ``nodes`` are those that serve it, with what they say of it (None: nothing yet), ``where`` their addresses, "" where
    none is known.
    """

    ingress: Ingress
    nodes: Mapping[str, IngressStatus | None]
    where: Mapping[str, str]
    certificates: Mapping[str, Certificate]

    def certificate(self, host: str) -> Certificate | None:
        """The host's certificate, if there is one and it is to be served."""
        found = self.certificates.get(host)
        wanted = self.ingress.tls_mode != Ingress.OFF
        return found if wanted and found is not None and found.chain_pem else None


async def read_ingress(etcd: Etcd, ref: EnvironmentRef) -> IngressView:
    """Read it.

    Raises:
        CliError: ``ingress_none``: the environment has no ingress.
    """
    seen = await snapshot(etcd, ref)
    ingress = view.ingress_of(seen)
    if ingress is None:
        raise no_ingress(ref)
    keys = {name: etcd.keys.assignment(name, ref) for name in seen.nodes}
    assigned = await Reader(etcd).get_many_under(etcd.keys.all_assignments_prefix, keys, Assignment)
    said = view.ingress_statuses(seen.statuses)
    names = sorted({name for name, each in assigned.items() if each.HasField("ingress")} | (said.keys() & assigned))
    where = {name: address_of(seen.nodes.get(name), (seen.heartbeats or {}).get(name)) for name in names}
    return IngressView(ingress, {name: _answering(seen, name, said) for name in names}, where, seen.certificates)


def _answering(seen: Snapshot, name: str, said: Mapping[str, IngressStatus]) -> IngressStatus | None:
    """What the node says; that it is not there where its agent gives no sign of life, for its word may be old."""
    status = said.get(name)
    if status is None or (seen.heartbeats is not None and name in seen.heartbeats):
        return status
    told = IngressStatus()
    told.CopyFrom(status)
    told.reason = "; ".join(filter(None, ["its agent is not there, so this may be old", status.reason]))
    return told


def address_of(node: Node | None, beat: Heartbeat | None) -> str:
    """Where a node is reached: as it is registered, else where its agent says that it answers; "" if nobody says."""
    if node is not None and node.address:
        return node.address
    said = answers_at("", beat.api_address) if beat is not None else ""
    return said.rpartition(":")[0].strip("[]")


def no_ingress(ref: EnvironmentRef) -> CliError:
    """The error for an environment without an ingress."""
    actions = [
        NextAction("give it one", "devopsellence ingress set --host app.example.com"),
        NextAction("then", "devopsellence deploy"),
    ]
    return CliError("ingress_none", f"{ref} runs no release with an ingress", next_actions=actions)


class IngressCheck:
    """Looks at everything; ``server`` is the resolver to ask, "" for the system's."""

    def __init__(self, etcd: Etcd, ref: EnvironmentRef, server: str) -> None:
        self._etcd = etcd
        self._ref = ref
        self._server = server
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        self._trusted = probing.trust_store()
        self.results: Results = {}

    @property
    def checks(self) -> list[CheckResult]:
        """Everything that was found, that about nodes first."""
        return [check for checks in self.results.values() for check in checks]

    async def all(self) -> None:
        """Look at everything."""
        seen = await read_ingress(self._etcd, self._ref)
        self.results = await self._look(seen, [NODES, *seen.ingress.hosts])

    async def wait(self, seconds: float, tell: Callable[[CheckResult], None]) -> None:
        """Look again at what failed until nothing does, for so many seconds; ``tell`` hears what is otherwise than
        before."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(_NotYet),
            wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_PAUSE),
            stop=stop_after_delay(seconds),
        )
        try:
            async for attempt in attempts:
                with attempt:
                    await self._again(tell)
        except RetryError:
            return

    async def _again(self, tell: Callable[[CheckResult], None]) -> None:
        again = [about for about, checks in self.results.items() if check_findings.failed_results(checks)]
        if not again:
            return
        seen = await read_ingress(self._etcd, self._ref)
        hosts = set(seen.ingress.hosts)
        before = set(self.checks)
        found = await self._look(seen, [about for about in again if about == NODES or about in hosts])
        self.results = {about: found.get(about, checks) for about, checks in self.results.items()}
        for about in self.results.keys() - hosts - {NODES}:
            # A release has taken it away meanwhile.
            del self.results[about]
        for check in self.checks:
            if check not in before:
                tell(check)
        if check_findings.failed_results(self.checks):
            raise _NotYet

    async def _look(self, seen: IngressView, about: Iterable[str]) -> Results:
        names = CachingResolver(self._server, seconds=_DNS_SECONDS)
        known = await addresses(names, seen.where)
        # A name that DNS does not have may be known to this machine all the same.
        seen = replace(
            seen, where={node: preferred_address(known[node]) or where for node, where in seen.where.items()}
        )
        # Also where only hosts are asked about: of nodes that cannot be reached it need not be said again for each.
        ports = await self._ports(seen)
        wanted = list(about)
        hosts = [host for host in wanted if host != NODES]
        found = await concurrently(self._host(seen, host, names, known, ports) for host in hosts)
        results: Results = {NODES: _nodes(seen, ports)} if NODES in wanted else {}
        return results | dict(zip(hosts, found, strict=True))

    async def _ports(self, seen: IngressView) -> dict[str, dict[int, str]]:
        """Of each node, by port, why nothing answers there; "" where something does."""
        asked = [
            (name, port)
            for name, status in seen.nodes.items()
            if status is not None and seen.where[name]
            for port in (status.http_port, status.https_port)
            if port
        ]
        found = await concurrently(self._blocking(probing.reachable, seen.where[name], port) for name, port in asked)
        result: dict[str, dict[int, str]] = {name: {} for name in seen.nodes}
        for (name, port), why in zip(asked, found, strict=True):
            result[name][port] = why
        return result

    async def _host(
        self,
        seen: IngressView,
        host: str,
        names: CachingResolver,
        known: Mapping[str, frozenset[str]],
        ports: Mapping[str, Mapping[int, str]],
    ) -> list[CheckResult]:
        now, certificate = datetime.now(UTC), seen.certificate(host)
        checks = [check_findings.dns_result(host, await names.find(host), known)]
        checks += check_findings.stored_certificate_results(
            seen.ingress, host, certificate or seen.certificates.get(host), now
        )
        http, https = _open(seen, ports, "http_port"), _open(seen, ports, "https_port")
        prefixes = [rule.path_prefix for rule in seen.ingress.rules if rule.host == host]
        if not prefixes:
            return [
                *checks,
                CheckResult(f"rules of {host}", "warning", "no rule is about it: it answers 404", "ingress_no_rule"),
            ]
        path = min(prefixes, key=len)
        if certificate is None:
            plain = await self._each(http, probing.answer, host, path, secure=False)
            return checks + check_findings.answer_results(host, path, plain, secure=False)
        shown, answers, redirects = await asyncio.gather(
            self._each(https, probing.certificate, host, self._trusted),
            self._each(https, probing.answer, host, path, secure=True),
            self._each(http if seen.ingress.redirect_http else {}, probing.answer, host, path, secure=False),
        )
        checks += check_findings.served_certificate_results(host, certificate, shown, now)
        checks += check_findings.answer_results(host, path, answers, secure=True)
        return checks + check_findings.redirect_results(host, path, redirects)

    async def _each(
        self, where: Mapping[str, tuple[str, int]], probe: Callable[..., T], *about: object, **how: object
    ) -> dict[str, T]:
        """What a probe finds at each of the nodes."""
        found = await concurrently(self._blocking(probe, *where[name], *about, **how) for name in where)
        return dict(zip(where, found, strict=True))

    async def _blocking(self, probe: Callable[..., T], *about: object, **how: object) -> T:
        async with self._slots:
            return await asyncio.to_thread(probe, *about, **how)


class _NotYet(Exception):
    """Something still fails."""


def _open(seen: IngressView, ports: Mapping[str, Mapping[int, str]], which: str) -> dict[str, tuple[str, int]]:
    """Address and port of the nodes where that port answers."""
    found = {}
    for name, status in seen.nodes.items():
        port = getattr(status, which) if status is not None else 0
        if ports[name].get(port) == "":
            found[name] = (seen.where[name], port)
    return found


def _nodes(seen: IngressView, ports: Mapping[str, Mapping[int, str]]) -> list[CheckResult]:
    if not seen.nodes:
        wanted = ", ".join(sorted({rule.service for rule in seen.ingress.rules}))
        what = f"none serves the ingress: none is assigned all of {wanted}"
        mend = NextAction("see what runs where", "devopsellence status")
        return [CheckResult("nodes", "error", what, "ingress_nowhere", (mend,))]
    secure = any(seen.certificate(host) is not None for host in seen.ingress.hosts)
    return [
        check
        for name, status in seen.nodes.items()
        for check in check_findings.node_results(name, status, seen.where[name], ports[name], secure=secure)
    ]
