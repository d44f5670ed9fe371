"""Ingress of an environment: its URLs and its problems. Pure.

Hosts and nodes with the same problem share an :class:`IngressProblem`, so that hundreds of hosts do not hide the rest.
Sentences contain points in time, not durations, and therefore change only with the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Certificate, IngressStatus, Issuance
from devopsellence.api.v1.workload_pb2 import Ingress
from devopsellence.cli.output import Finding, NextAction
from devopsellence.cli.store.snapshot import RolloutState, Snapshot, release_verdict
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import collapse_ranges, few, iso, local_time, plural, word

#: A certificate with fewer days left should have been renewed; this is reported as a problem.
EXPIRES_DAYS: Final = 14
_DAY: Final = 86400.0
_HTTP: Final = 80
_HTTPS: Final = 443
# Problems shown as text; beyond that, only their number.
_SHOWN: Final = 10
_STEPS: Final = {
    Issuance.KEY: "a node is generating the private key",
    Issuance.ORDER: "ordering from the certificate authority",
    Issuance.CHALLENGE: "the certificate authority is validating the host",
    Issuance.FINALIZE: "the certificate authority is issuing the certificate",
}
CHECK: Final = NextAction("find the cause", "devopsellence ingress check")


@dataclass(frozen=True)
class IngressProblem:
    """Problem of some hosts or some nodes; ``severity`` is "error" or "warning"."""

    code: str
    message: str
    severity: str = "warning"
    hosts: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    next_actions: tuple[NextAction, ...] = ()

    @property
    def text(self) -> str:
        """Sentence with the affected hosts or nodes."""
        subject = few(self.hosts) if self.hosts else collapse_ranges(self.nodes)
        return f"{subject}: {self.message}" if subject else self.message

    def finding(self) -> Finding:
        """Return the problem as part of a JSON document."""
        return Finding(self.code, self.text, self.severity, next_actions=self.next_actions)


def ingress_of(snapshot: Snapshot) -> Ingress | None:
    """Return the ingress of the rollout target; None if there is no ingress."""
    release = snapshot.numbered(snapshot.target)
    return release.ingress if release is not None and release.HasField("ingress") else None


def reachable_statuses(snapshot: Snapshot) -> dict[str, IngressStatus]:
    """Return the ingress status of reachable nodes, by node."""
    return (
        ingress_statuses(snapshot.statuses)
        if snapshot.heartbeats is None
        else {
            node: status
            for node, status in ingress_statuses(snapshot.statuses).items()
            if node in snapshot.heartbeats and _same_machine(snapshot, node)
        }
    )


def ingress_statuses(statuses: Mapping[str, AssignmentStatus]) -> dict[str, IngressStatus]:
    """Return the ingress status of nodes with an ingress, by node."""
    return {node: status.ingress for node, status in statuses.items() if status.HasField("ingress")}


def urls(snapshot: Snapshot) -> list[str]:
    """Return the URLs, one per host; an empty list without an ingress."""
    ingress = ingress_of(snapshot)
    if ingress is None:
        return []
    statuses = (reachable_statuses(snapshot) or ingress_statuses(snapshot.statuses)).values()
    return [url(ingress, host, snapshot.certificates.get(host), statuses) for host in ingress.hosts]


def url(ingress: Ingress, host: str, certificate: Certificate | None, statuses: Iterable[IngressStatus]) -> str:
    """Return the URL of ``host``: HTTPS if the host has a certificate, else HTTP.

    The port is one that a router listens on, else one that it will listen on: Envoy may be down or may be starting, and
    begins to listen for HTTPS only with the first certificate.
    """
    statuses = list(statuses)
    secure = ingress.tls_mode != Ingress.OFF and certificate is not None and bool(certificate.chain_pem)
    listening = {status.https_port if secure else status.http_port for status in statuses} - {0}
    configured = {status.configured_https_port if secure else status.configured_http_port for status in statuses} - {0}
    ports = sorted(listening or configured)
    if secure and statuses and not ports:
        return url(ingress, host, None, statuses)
    usual = _HTTPS if secure else _HTTP
    port = usual if not ports or usual in ports else ports[0]
    return f"{'https' if secure else 'http'}://{host}{'' if port == usual else f':{port}'}/"


def address_line(snapshot: Snapshot) -> str:
    """Return the URLs in a line; "" without an ingress."""
    return few(urls(snapshot))


def ingress_problems(snapshot: Snapshot, now: datetime) -> list[IngressProblem]:
    """Return all problems of the ingress, those of nodes first; an empty list without an ingress."""
    ingress = ingress_of(snapshot)
    if ingress is None:
        return []
    statuses = reachable_statuses(snapshot)
    problems = node_problems(statuses)
    settled = snapshot.number and release_verdict(snapshot, snapshot.number).outcome is RolloutState.SETTLED
    if settled and not ingress_statuses(snapshot.statuses):
        services = ", ".join(sorted({safe(rule.service) for rule in ingress.rules}))
        problems.append(
            IngressProblem("ingress_nowhere", f"no node serves the ingress: no node runs all of {services}", "error")
        )
    return problems + certificate_problems(ingress, snapshot.certificates, now)


def node_problems(statuses: Mapping[str, IngressStatus]) -> list[IngressProblem]:
    """Return the problems reported by nodes."""
    problems = []
    for node, status in sorted(statuses.items()):
        reason = safe(status.reason)
        if status.phase == IngressStatus.FAILED:
            problems.append(
                IngressProblem("ingress_not_served", reason or "the ingress is not routed", "error", nodes=(node,))
            )
        elif status.phase != IngressStatus.SERVING:
            message = f"the router is starting: {reason}" if reason else "the router is starting"
            problems.append(IngressProblem("ingress_starting", message, nodes=(node,)))
        elif reason:
            problems.append(IngressProblem("ingress_degraded", reason, nodes=(node,)))
    return _together(problems)


def certificate_problems(
    ingress: Ingress, certificates: Mapping[str, Certificate], now: datetime
) -> list[IngressProblem]:
    """Return the problems of the hosts' certificates."""
    if ingress.tls_mode == Ingress.OFF:
        return []
    problems = [certificate_problem(ingress, host, certificates.get(host), now) for host in ingress.hosts]
    return _together(problem for problem in problems if problem is not None)


def certificate_problem(
    ingress: Ingress, host: str, certificate: Certificate | None, now: datetime
) -> IngressProblem | None:
    """Return the problem of the certificate of ``host``; None if there is no problem."""
    manual = ingress.tls_mode == Ingress.MANUAL
    issuance = certificate.issuance if certificate is not None and certificate.HasField("issuance") else None
    failing = issuance if issuance is not None and issuance.phase == Issuance.BACKOFF else None
    install = NextAction(
        "install a certificate", f"devopsellence ingress cert install --host {host} --cert-file F --key-file F"
    )
    fix = (install,) if manual else (CHECK,)
    if certificate is None or not certificate.chain_pem:
        if failing is not None:
            message = f"no certificate, so plain HTTP: {failed_attempt(failing)}"
            return IngressProblem("ingress_certificate_failing", message, "error", (host,), next_actions=fix)
        message = "no certificate is installed, so plain HTTP"
        if not manual:
            step = _STEPS.get(issuance.phase) if issuance is not None else None
            because = f" ({safe(issuance.reason)})" if step and issuance is not None and issuance.reason else ""
            message = f"no certificate yet, so plain HTTP: {step or 'not ordered yet'}{because}"
        return IngressProblem("ingress_certificate_missing", message, hosts=(host,), next_actions=fix)
    left = (certificate.not_after.seconds - now.timestamp()) / _DAY
    renewal = f"; {failed_attempt(failing)}" if failing is not None else ""
    if left <= 0:
        message = f"the certificate expired on {local_time(certificate.not_after)}{renewal}"
        return IngressProblem("ingress_certificate_expired", message, "error", (host,), next_actions=fix)
    if left < EXPIRES_DAYS:
        message = f"the certificate expires in {plural(int(left), 'day')}{renewal}"
        return IngressProblem("ingress_certificate_expires", message, hosts=(host,), next_actions=fix)
    if failing is not None and not manual:
        message = (
            f"the certificate is valid for {plural(int(left), 'day')}, but renewal fails: {failed_attempt(failing)}"
        )
        return IngressProblem("ingress_certificate_failing", message, hosts=(host,), next_actions=fix)
    return None


def failed_attempt(issuance: Issuance) -> str:
    """Return the reason why the last attempt to obtain a certificate failed, and the time of the next attempt."""
    reason = safe(issuance.reason).rstrip(".") or "the certificate could not be obtained"
    again = f"; next attempt {local_time(issuance.next_attempt_at)}" if issuance.next_attempt_at.seconds else ""
    count = f" ({issuance.failures} times in a row)" if issuance.failures > 1 else ""
    return f"{reason}{count}{again}"


def problem_lines(problems: Sequence[IngressProblem]) -> list[str]:
    """Return the first problems as text lines."""
    shown = [f"Ingress: {problem.text}" for problem in problems[:_SHOWN]]
    return shown + ([f"Ingress: and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else [])


def document(snapshot: Snapshot, now: datetime) -> dict[str, Any] | None:
    """Return the JSON form of the ingress; None without an ingress."""
    ingress = ingress_of(snapshot)
    if ingress is None:
        return None
    return {
        "hosts": [
            {"host": host, "url": where, "certificate": certificate(snapshot.certificates.get(host))}
            for host, where in zip(ingress.hosts, urls(snapshot), strict=True)
        ],
        "nodes": [
            {
                "node": node,
                "phase": word(IngressStatus.Phase, status.phase),
                "reason": safe(status.reason),
                "http_port": status.http_port,
                "https_port": status.https_port,
            }
            for node, status in sorted(ingress_statuses(snapshot.statuses).items())
        ],
        "problems": [problem.finding().document() for problem in ingress_problems(snapshot, now)],
    }


def certificate(certificate: Certificate | None) -> dict[str, Any] | None:
    """Return the JSON form of a certificate, without the private key; None for None."""
    if certificate is None:
        return None
    issuance = certificate.issuance if certificate.HasField("issuance") else None
    return {
        "source": word(Certificate.Source, certificate.source) if certificate.chain_pem else None,
        "issuer": certificate.issuer,
        "serial": certificate.serial,
        "not_before": iso(certificate.not_before),
        "not_after": iso(certificate.not_after),
        "obtained_at": iso(certificate.obtained_at),
        "obtained_by": certificate.obtained_by,
        "issuance": None
        if issuance is None
        else {
            "phase": word(Issuance.Phase, issuance.phase),
            "reason": safe(issuance.reason),
            "failures": issuance.failures,
            "since": iso(issuance.since),
            "next_attempt_at": iso(issuance.next_attempt_at),
            "node": issuance.key_node,
        },
    }


def _same_machine(snapshot: Snapshot, node: str) -> bool:
    record, uid = snapshot.nodes.get(node), snapshot.statuses[node].node_uid
    return record is None or not uid or record.uid == uid


def _together(problems: Iterable[IngressProblem]) -> list[IngressProblem]:
    """Return the problems with equal messages merged; errors first, otherwise in order."""
    same: dict[tuple[str, str, str], list[IngressProblem]] = {}
    for problem in problems:
        same.setdefault((problem.severity, problem.code, problem.message), []).append(problem)
    merged = [
        IngressProblem(
            code,
            what,
            severity,
            tuple(host for problem in group for host in problem.hosts),
            tuple(node for problem in group for node in problem.nodes),
            group[0].next_actions,
        )
        for (severity, code, what), group in same.items()
    ]
    return sorted(merged, key=lambda problem: problem.severity)
