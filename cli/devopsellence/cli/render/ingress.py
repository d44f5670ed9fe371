"""An environment's ingress: its addresses, and what is wrong with it. Pure.

Hosts and nodes of which the same is to be said share a :class:`Trouble`, so that hundreds of hosts do not drown the
rest. Times in sentences are moments, not ages, so that they say something else only when something happens.
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
from devopsellence.cli.util.text import collapse_ranges, few, iso, local_time, plural, safe, word

#: Days before its end from which a certificate that is still not renewed is a problem.
EXPIRES_DAYS: Final = 14
_DAY: Final = 86400.0
_HTTP: Final = 80
_HTTPS: Final = 443
# Of more troubles than this, text shows the first, and how many there are beyond.
_SHOWN: Final = 10
_STEPS: Final = {
    Issuance.KEY: "a node makes its key",
    Issuance.ORDER: "the authority is asked",
    Issuance.CHALLENGE: "the authority looks whether the host is ours",
    Issuance.FINALIZE: "the authority makes it",
}
CHECK: Final = NextAction("see what is in the way", "devopsellence ingress check")


@dataclass(frozen=True)
class IngressProblem:
    """What is wrong with some ``hosts`` or some ``nodes``; ``severity`` is "error" or "warning"."""

    code: str
    message: str
    severity: str = "warning"
    hosts: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    next_actions: tuple[NextAction, ...] = ()

    @property
    def text(self) -> str:
        """In a sentence."""
        whose = few(self.hosts) if self.hosts else collapse_ranges(self.nodes)
        return f"{whose}: {self.message}" if whose else self.message

    def finding(self) -> Finding:
        """As part of a document."""
        return Finding(self.code, self.text, self.severity, next_actions=self.next_actions)


def ingress_of(snapshot: Snapshot) -> Ingress | None:
    """The ingress of the release that the environment is to run; None where it has none."""
    release = snapshot.numbered(snapshot.target)
    return release.ingress if release is not None and release.HasField("ingress") else None


def reachable_statuses(snapshot: Snapshot) -> dict[str, IngressStatus]:
    """What the nodes that can be reached say of it, by node."""
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
    """Those among them that speak of an ingress."""
    return {node: status.ingress for node, status in statuses.items() if status.HasField("ingress")}


def urls(snapshot: Snapshot) -> list[str]:
    """Where people reach it, one for each host; nothing without an ingress."""
    ingress = ingress_of(snapshot)
    if ingress is None:
        return []
    said = reachable_statuses(snapshot).values()
    return [url(ingress, host, snapshot.certificates.get(host), said) for host in ingress.hosts]


def url(ingress: Ingress, host: str, certificate: Certificate | None, said: Iterable[IngressStatus]) -> str:
    """Where ``host`` is reached: by HTTPS where it has a certificate."""
    said = list(said)
    secure = ingress.tls_mode != Ingress.OFF and certificate is not None and bool(certificate.chain_pem)
    ports = sorted({each.https_port if secure else each.http_port for each in said} - {0})
    if secure and said and not ports:
        return url(ingress, host, None, said)
    usual = _HTTPS if secure else _HTTP
    port = usual if not ports or usual in ports else ports[0]
    return f"{'https' if secure else 'http'}://{host}{'' if port == usual else f':{port}'}/"


def address_line(snapshot: Snapshot) -> str:
    """The addresses in a line; "" without an ingress."""
    return few(urls(snapshot))


def ingress_problems(snapshot: Snapshot, now: datetime) -> list[IngressProblem]:
    """Everything that is wrong with the ingress, nodes first; nothing where all is well or there is none."""
    ingress = ingress_of(snapshot)
    if ingress is None:
        return []
    said = reachable_statuses(snapshot)
    found = node_problems(said)
    settled = snapshot.number and release_verdict(snapshot, snapshot.number).outcome is RolloutState.SETTLED
    if settled and not ingress_statuses(snapshot.statuses):
        wanted = ", ".join(sorted({safe(rule.service) for rule in ingress.rules}))
        found.append(
            IngressProblem("ingress_nowhere", f"no node serves the ingress: none runs all of {wanted}", "error")
        )
    return found + certificate_problems(ingress, snapshot.certificates, now)


def node_problems(said: Mapping[str, IngressStatus]) -> list[IngressProblem]:
    """What nodes say is wrong with them."""
    found = []
    for node, status in sorted(said.items()):
        reason = safe(status.reason)
        if status.phase == IngressStatus.FAILED:
            found.append(IngressProblem("ingress_not_served", reason or "it is not routed", "error", nodes=(node,)))
        elif status.phase != IngressStatus.SERVING:
            what = f"the router is starting: {reason}" if reason else "the router is starting"
            found.append(IngressProblem("ingress_starting", what, nodes=(node,)))
        elif reason:
            found.append(IngressProblem("ingress_degraded", reason, nodes=(node,)))
    return _together(found)


def certificate_problems(
    ingress: Ingress, certificates: Mapping[str, Certificate], now: datetime
) -> list[IngressProblem]:
    """What is wrong with the certificates of its hosts."""
    if ingress.tls_mode == Ingress.OFF:
        return []
    found = [certificate_problem(ingress, host, certificates.get(host), now) for host in ingress.hosts]
    return _together(each for each in found if each is not None)


def certificate_problem(
    ingress: Ingress, host: str, certificate: Certificate | None, now: datetime
) -> IngressProblem | None:
    """What is wrong with the certificate of one host; None if nothing is."""
    manual = ingress.tls_mode == Ingress.MANUAL
    course = certificate.issuance if certificate is not None and certificate.HasField("issuance") else None
    failing = course if course is not None and course.phase == Issuance.BACKOFF else None
    install = NextAction("install one", f"devopsellence ingress cert install --host {host} --cert-file F --key-file F")
    mend = (install,) if manual else (CHECK,)
    if certificate is None or not certificate.chain_pem:
        if failing is not None:
            what = f"no certificate, so plain HTTP: {failed_attempt(failing)}"
            return IngressProblem("ingress_certificate_failing", what, "error", (host,), next_actions=mend)
        what = "no certificate is installed, so plain HTTP"
        if not manual:
            step = _STEPS.get(course.phase) if course is not None else None
            what = f"no certificate yet, so plain HTTP: {step or 'it is to be obtained'}"
        return IngressProblem("ingress_certificate_missing", what, hosts=(host,), next_actions=mend)
    left = (certificate.not_after.seconds - now.timestamp()) / _DAY
    renewal = f"; {failed_attempt(failing)}" if failing is not None else ""
    if left <= 0:
        what = f"its certificate has expired on {local_time(certificate.not_after)}{renewal}"
        return IngressProblem("ingress_certificate_expired", what, "error", (host,), next_actions=mend)
    if left < EXPIRES_DAYS:
        what = f"its certificate expires in {plural(int(left), 'day')}{renewal}"
        return IngressProblem("ingress_certificate_expires", what, hosts=(host,), next_actions=mend)
    if failing is not None and not manual:
        what = (
            f"its certificate is valid for {plural(int(left), 'day')}, and its renewal fails: {failed_attempt(failing)}"
        )
        return IngressProblem("ingress_certificate_failing", what, hosts=(host,), next_actions=mend)
    return None


def failed_attempt(course: Issuance) -> str:
    """Why the last attempt at a certificate failed, and when the next one is."""
    reason = safe(course.reason).rstrip(".") or "it could not be obtained"
    again = f"; next attempt {local_time(course.next_attempt_at)}" if course.next_attempt_at.seconds else ""
    count = f" ({course.failures} times in a row)" if course.failures > 1 else ""
    return f"{reason}{count}{again}"


def problem_lines(found: Sequence[IngressProblem]) -> list[str]:
    """Troubles for a person, the first ones."""
    shown = [f"Ingress: {each.text}" for each in found[:_SHOWN]]
    return shown + ([f"Ingress: and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])


def document(snapshot: Snapshot, now: datetime) -> dict[str, Any] | None:
    """All of it in JSON; None without an ingress."""
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
        "problems": [trouble.finding().document() for trouble in ingress_problems(snapshot, now)],
    }


def certificate(found: Certificate | None) -> dict[str, Any] | None:
    """A certificate in JSON, without its key; None for none."""
    if found is None:
        return None
    course = found.issuance if found.HasField("issuance") else None
    return {
        "source": word(Certificate.Source, found.source) if found.chain_pem else None,
        "issuer": found.issuer,
        "serial": found.serial,
        "not_before": iso(found.not_before),
        "not_after": iso(found.not_after),
        "obtained_at": iso(found.obtained_at),
        "obtained_by": found.obtained_by,
        "issuance": None
        if course is None
        else {
            "phase": word(Issuance.Phase, course.phase),
            "reason": safe(course.reason),
            "failures": course.failures,
            "since": iso(course.since),
            "next_attempt_at": iso(course.next_attempt_at),
            "node": course.key_node,
        },
    }


def _same_machine(snapshot: Snapshot, node: str) -> bool:
    record, uid = snapshot.nodes.get(node), snapshot.statuses[node].node_uid
    return record is None or not uid or record.uid == uid


def _together(found: Iterable[IngressProblem]) -> list[IngressProblem]:
    """Those that say the same, as one; errors first, otherwise in order."""
    same: dict[tuple[str, str, str], list[IngressProblem]] = {}
    for each in found:
        same.setdefault((each.severity, each.code, each.message), []).append(each)
    merged = [
        IngressProblem(
            code,
            what,
            severity,
            tuple(host for each in group for host in each.hosts),
            tuple(node for each in group for node in each.nodes),
            group[0].next_actions,
        )
        for (severity, code, what), group in same.items()
    ]
    return sorted(merged, key=lambda each: each.severity)
