"""Results of ``ingress check`` from DNS answers, node statuses and probes. Pure.

The severity is "error" only if requests from outside fail, or will certainly fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from devopsellence.api.v1.stored_pb2 import Certificate, IngressStatus
from devopsellence.api.v1.workload_pb2 import Ingress
from devopsellence.cli.ingress.dns import DnsAnswer, LookupStatus, address_realms
from devopsellence.cli.ingress.probe import HttpAnswer, PresentedCertificate
from devopsellence.cli.output import CheckResult, NextAction
from devopsellence.cli.render import ingress as ingress_view
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import collapse_ranges, plural, word

_DAY: Final = 86400.0
_STATUS: Final = NextAction("see what runs", "devopsellence status")
_REDIRECTS: Final = (301, 302, 307, 308)


def dns_result(host: str, answer: DnsAnswer, nodes: Mapping[str, frozenset[str]]) -> CheckResult:
    """Check that DNS points to the nodes that serve the host; ``nodes`` has their addresses, empty if not known."""
    about = f"DNS of {host}"
    known = sorted({address for node_addresses in nodes.values() for address in node_addresses})
    point = (NextAction("at your DNS provider", f"{host}  A/AAAA  {', '.join(known)}"),) if known else ()
    if answer.kind is LookupStatus.SILENT:
        return CheckResult(about, "error", answer.detail, "ingress_dns_silent")
    if answer.kind is LookupStatus.ABSENT:
        return CheckResult(about, "error", answer.detail, "ingress_dns_missing", point)
    leads = f"points to {', '.join(answer.addresses)}" + (f" (alias of {answer.alias})" if answer.alias else "")
    unknown = sorted(node for node, addresses in nodes.items() if not addresses)
    missing = sorted(node for node, addresses in nodes.items() if addresses and not addresses & set(answer.addresses))
    strangers = sorted(set(answer.addresses) - set(known))
    if strangers:
        # Behind a load balancer or NAT, clients use other addresses than those of the nodes.
        sure = not unknown and address_realms(strangers) <= address_realms(known)
        message = f"{leads}; {', '.join(strangers)} is not the address of a node that serves the host"
        message += "" if sure else " (unless there is a load balancer in front of the nodes)"
        return CheckResult(about, "error" if sure else "warning", message, "ingress_dns_elsewhere", point)
    if missing:
        message = f"{leads}, but not to {', '.join(missing)}, which serves the host too"
        return CheckResult(about, "warning", message, "ingress_dns_incomplete", point)
    return CheckResult(about, "ok", leads)


def node_results(
    node: str, status: IngressStatus | None, address: str, answers: Mapping[int, str], *, secure: bool
) -> list[CheckResult]:
    """Check a node that serves the ingress: the status of its router, and open ports at ``address``.

    ``answers`` has the connection error by port, "" if open. ``secure``: there are certificates to serve.
    """
    about = f"node {node}"
    if status is None:
        message = "its agent has not reported an ingress status yet"
        return [CheckResult(about, "error", message, "ingress_not_served", (_STATUS,))]
    reason = safe(status.reason)
    results: list[CheckResult] = []
    if status.phase != IngressStatus.SERVING:
        message = reason or f"its router is {word(IngressStatus.Phase, status.phase)}"
        results.append(CheckResult(about, "error", message, "ingress_not_served", (_STATUS,)))
    elif reason:
        results.append(CheckResult(about, "warning", reason, "ingress_degraded"))
    if not address:
        message = "the node is registered without an address, so its ports cannot be checked from here"
        results.append(CheckResult(about, "warning", message, "node_without_address"))
    elif not answers and status.phase == IngressStatus.SERVING:
        results.append(CheckResult(about, "error", "its router listens on no port", "ingress_not_served"))
    for port, why in sorted(answers.items()):
        open_it = NextAction(f"in the firewalls of {node} and in front of it", f"allow TCP port {port} from anywhere")
        check = CheckResult(f"port {port} of {node}", "ok", f"open at {address}")
        if why:
            check = CheckResult(check.name, "error", f"{address}: {why}", "ingress_port_closed", (open_it,))
        results.append(check)
    if secure and status.phase == IngressStatus.SERVING and not status.https_port:
        results.append(CheckResult(about, "error", "its router does not listen for HTTPS", "ingress_not_served"))
    return results


def stored_certificate_results(
    ingress: Ingress, host: str, certificate: Certificate | None, now: datetime
) -> list[CheckResult]:
    """Check the stored certificate of a host; no result with TLS off."""
    if ingress.tls_mode == Ingress.OFF:
        return []
    about = f"certificate of {host}"
    problem = ingress_view.certificate_problem(ingress, host, certificate, now)
    if problem is not None:
        lacks = certificate is None or not certificate.chain_pem
        return [
            CheckResult(
                about, "error" if lacks else problem.severity, problem.message, problem.code, problem.next_actions
            )
        ]
    if certificate is None:
        return []
    left = plural(int((certificate.not_after.seconds - now.timestamp()) / _DAY), "day")
    return [CheckResult(about, "ok", f"issued by {safe(certificate.issuer)}, valid for {left}")]


def served_certificate_results(
    host: str, certificate: Certificate, presented: Mapping[str, PresentedCertificate], now: datetime
) -> list[CheckResult]:
    """Compare the certificates presented by nodes for a host with the stored ``certificate``."""
    return merge_results(
        {node: _served(host, certificate, certificate_, now) for node, certificate_ in presented.items()}
    )


def _served(host: str, certificate: Certificate, presented: PresentedCertificate, now: datetime) -> CheckResult:
    from devopsellence.cli.ingress.pem import covered

    about = f"HTTPS of {host}"
    if presented.error:
        return CheckResult(about, "error", presented.error, "ingress_certificate_not_served", (_STATUS,))
    subject = f"the certificate issued by {safe(presented.issuer)}"
    if not covered(host, presented.names, presented.addresses):
        return CheckResult(about, "error", f"{subject} is for another host", "ingress_certificate_other", (_STATUS,))
    if presented.not_after is not None and presented.not_after <= now:
        return CheckResult(about, "error", f"{subject} has expired", "ingress_certificate_expired")
    if presented.serial != certificate.serial:
        return CheckResult(
            about, "error", f"{subject} is not the newest certificate", "ingress_certificate_other", (_STATUS,)
        )
    if presented.distrust:
        message = f"this machine does not trust {subject}: {safe(presented.distrust)}"
        return CheckResult(about, "warning", message, "ingress_certificate_untrusted")
    return CheckResult(about, "ok", f"serves {subject}")


def answer_results(host: str, path: str, answers: Mapping[str, HttpAnswer], *, secure: bool) -> list[CheckResult]:
    """Check the responses of nodes to a request for the host."""
    about = f"answer of {'https' if secure else 'http'}://{host}{path}"
    return merge_results({node: _answered(about, answer) for node, answer in answers.items()})


def _answered(about: str, answer: HttpAnswer) -> CheckResult:
    if answer.error:
        return CheckResult(about, "error", answer.error, "ingress_no_answer", (_STATUS,))
    if answer.status >= 500:
        return CheckResult(about, "error", f"status {answer.status}", "ingress_answer", (_STATUS,))
    if answer.status == 404:
        return CheckResult(about, "warning", "status 404: the app has no page at this path", "ingress_answer")
    return CheckResult(about, "ok", f"status {answer.status}")


def redirect_results(host: str, path: str, answers: Mapping[str, HttpAnswer]) -> list[CheckResult]:
    """Check that nodes redirect plain HTTP for the host to HTTPS."""
    return merge_results({node: _redirected(host, path, answer) for node, answer in answers.items()})


def _redirected(host: str, path: str, answer: HttpAnswer) -> CheckResult:
    about = f"redirect of http://{host}{path}"
    if answer.error:
        return CheckResult(about, "error", answer.error, "ingress_no_answer", (_STATUS,))
    if answer.status in _REDIRECTS and answer.location.lower().startswith(f"https://{host}"):
        return CheckResult(about, "ok", f"status {answer.status}, to HTTPS")
    return CheckResult(
        about, "error", f"status {answer.status}, and no redirect to HTTPS", "ingress_redirect", (_STATUS,)
    )


def merge_results(results: Mapping[str, CheckResult]) -> list[CheckResult]:
    """Merge equal results of several nodes."""
    same: dict[CheckResult, list[str]] = {}
    for node_name, check in sorted(results.items()):
        same.setdefault(check, []).append(node_name)
    return [
        replace(check, message=f"{check.message} ({collapse_ranges(tuple(nodes))})") for check, nodes in same.items()
    ]


def failed_results(checks: Iterable[CheckResult]) -> list[CheckResult]:
    """Return the failed checks."""
    return [check for check in checks if check.severity == "error"]


def summary(checks: Sequence[CheckResult]) -> str:
    """Return the numbers of failed, doubtful and passed checks as text."""
    counts = {severity: sum(1 for check in checks if check.severity == severity) for severity in ("error", "warning")}
    parts = [f"{counts['error']} failed"] if counts["error"] else []
    parts += [plural(counts["warning"], "warning")] if counts["warning"] else []
    return ", ".join([*parts, f"{len(checks) - sum(counts.values())} passed"])
