"""What ``ingress check`` makes of what it saw. Pure.

A check's severity is "error" only where something outside does not work, or where it is bound to stop working.
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
from devopsellence.cli.render import ingress as view
from devopsellence.cli.util.text import collapse_ranges, plural, safe, word

_DAY: Final = 86400.0
_STATUS: Final = NextAction("see what runs", "devopsellence status")
_REDIRECTS: Final = (301, 302, 307, 308)


def dns_result(host: str, found: DnsAnswer, nodes: Mapping[str, frozenset[str]]) -> CheckResult:
    """Whether DNS leads to the ``nodes`` that serve the host: their addresses, none where they are not known."""
    about = f"DNS of {host}"
    known = sorted({address for each in nodes.values() for address in each})
    point = (NextAction("at your DNS provider", f"{host}  A/AAAA  {', '.join(known)}"),) if known else ()
    if found.kind is LookupStatus.SILENT:
        return CheckResult(about, "error", found.detail, "ingress_dns_silent")
    if found.kind is LookupStatus.ABSENT:
        return CheckResult(about, "error", found.detail, "ingress_dns_missing", point)
    leads = f"leads to {', '.join(found.addresses)}" + (f" (by way of {found.alias})" if found.alias else "")
    unknown = sorted(node for node, addresses in nodes.items() if not addresses)
    missing = sorted(node for node, addresses in nodes.items() if addresses and not addresses & set(found.addresses))
    strangers = sorted(set(found.addresses) - set(known))
    if strangers:
        # Behind a load balancer, or an address that is translated, nodes are known by others than clients see.
        sure = not unknown and address_realms(strangers) <= address_realms(known)
        what = f"{leads}; {', '.join(strangers)} is no address of a node that serves it"
        what += "" if sure else " as far as is known (is there a load balancer in front of them?)"
        return CheckResult(about, "error" if sure else "warning", what, "ingress_dns_elsewhere", point)
    if missing:
        what = f"{leads}, not to {', '.join(missing)}, which serves it as well"
        return CheckResult(about, "warning", what, "ingress_dns_incomplete", point)
    return CheckResult(about, "ok", leads)


def node_results(
    node: str, status: IngressStatus | None, address: str, answers: Mapping[int, str], *, secure: bool
) -> list[CheckResult]:
    """A node that serves the ingress: what its agent says, and whether its ports answer at ``address``.

    ``answers`` are by port: why nothing answers there, "" if something does. ``secure``: there is something to serve by
    HTTPS.
    """
    about = f"node {node}"
    if status is None:
        what = "its agent has not said yet that it serves the ingress"
        return [CheckResult(about, "error", what, "ingress_not_served", (_STATUS,))]
    reason = safe(status.reason)
    found: list[CheckResult] = []
    if status.phase != IngressStatus.SERVING:
        what = reason or f"its router is {word(IngressStatus.Phase, status.phase)}"
        found.append(CheckResult(about, "error", what, "ingress_not_served", (_STATUS,)))
    elif reason:
        found.append(CheckResult(about, "warning", reason, "ingress_degraded"))
    if not address:
        what = "it is registered without an address, so nobody can look from here whether it answers"
        found.append(CheckResult(about, "warning", what, "node_without_address"))
    elif not answers and status.phase == IngressStatus.SERVING:
        found.append(CheckResult(about, "error", "its router listens nowhere", "ingress_not_served"))
    for port, why in sorted(answers.items()):
        open_it = NextAction(f"on {node}, and in front of it", f"let everybody reach TCP port {port}")
        check = CheckResult(f"port {port} of {node}", "ok", f"answers at {address}")
        if why:
            check = CheckResult(check.name, "error", f"{address}: {why}", "ingress_port_closed", (open_it,))
        found.append(check)
    if secure and status.phase == IngressStatus.SERVING and not status.https_port:
        found.append(CheckResult(about, "error", "its router does not listen for HTTPS", "ingress_not_served"))
    return found


def stored_certificate_results(
    ingress: Ingress, host: str, certificate: Certificate | None, now: datetime
) -> list[CheckResult]:
    """The host's certificate as it is stored; nothing where there is to be none."""
    if ingress.tls_mode == Ingress.OFF:
        return []
    about = f"certificate of {host}"
    trouble = view.certificate_problem(ingress, host, certificate, now)
    if trouble is not None:
        lacks = certificate is None or not certificate.chain_pem
        return [
            CheckResult(
                about, "error" if lacks else trouble.severity, trouble.message, trouble.code, trouble.next_actions
            )
        ]
    if certificate is None:
        return []
    left = plural(int((certificate.not_after.seconds - now.timestamp()) / _DAY), "day")
    return [CheckResult(about, "ok", f"by {safe(certificate.issuer)}, valid for {left}")]


def served_certificate_results(
    host: str, certificate: Certificate, seen: Mapping[str, PresentedCertificate], now: datetime
) -> list[CheckResult]:
    """What nodes serve for the host, beside the ``certificate`` that they are to serve."""
    return merge_results({each: _served(host, certificate, found, now) for each, found in seen.items()})


def _served(host: str, certificate: Certificate, found: PresentedCertificate, now: datetime) -> CheckResult:
    from devopsellence.cli.ingress.pem import covered

    about = f"HTTPS of {host}"
    if found.error:
        return CheckResult(about, "error", found.error, "ingress_certificate_not_served", (_STATUS,))
    whose = f"the certificate by {safe(found.issuer)}"
    if not covered(host, found.names, found.addresses):
        return CheckResult(about, "error", f"{whose} is for another host", "ingress_certificate_other", (_STATUS,))
    if found.not_after is not None and found.not_after <= now:
        return CheckResult(about, "error", f"{whose} has expired", "ingress_certificate_expired")
    if found.serial != certificate.serial:
        return CheckResult(about, "error", f"{whose} is not the newest one", "ingress_certificate_other", (_STATUS,))
    if found.distrust:
        what = f"this machine does not trust {whose}: {safe(found.distrust)}"
        return CheckResult(about, "warning", what, "ingress_certificate_untrusted")
    return CheckResult(about, "ok", f"serves {whose}")


def answer_results(host: str, path: str, seen: Mapping[str, HttpAnswer], *, secure: bool) -> list[CheckResult]:
    """What nodes answer to a request for the host."""
    about = f"answer of {'https' if secure else 'http'}://{host}{path}"
    return merge_results({each: _answered(about, found) for each, found in seen.items()})


def _answered(about: str, found: HttpAnswer) -> CheckResult:
    if found.error:
        return CheckResult(about, "error", found.error, "ingress_no_answer", (_STATUS,))
    if found.status >= 500:
        return CheckResult(about, "error", f"status {found.status}", "ingress_answer", (_STATUS,))
    if found.status == 404:
        return CheckResult(about, "warning", "status 404: the app has nothing there", "ingress_answer")
    return CheckResult(about, "ok", f"status {found.status}")


def redirect_results(host: str, path: str, seen: Mapping[str, HttpAnswer]) -> list[CheckResult]:
    """Whether nodes lead plain HTTP for the host to HTTPS."""
    return merge_results({each: _redirected(host, path, found) for each, found in seen.items()})


def _redirected(host: str, path: str, found: HttpAnswer) -> CheckResult:
    about = f"redirect of http://{host}{path}"
    if found.error:
        return CheckResult(about, "error", found.error, "ingress_no_answer", (_STATUS,))
    if found.status in _REDIRECTS and found.location.lower().startswith(f"https://{host}"):
        return CheckResult(about, "ok", f"status {found.status}, to HTTPS")
    return CheckResult(
        about, "error", f"status {found.status}, and no redirect to HTTPS", "ingress_redirect", (_STATUS,)
    )


def merge_results(found: Mapping[str, CheckResult]) -> list[CheckResult]:
    """Checks of nodes: those that say the same, as one."""
    same: dict[CheckResult, list[str]] = {}
    for node_name, check in sorted(found.items()):
        same.setdefault(check, []).append(node_name)
    return [
        replace(check, message=f"{check.message} ({collapse_ranges(tuple(nodes))})") for check, nodes in same.items()
    ]


def failed_results(checks: Iterable[CheckResult]) -> list[CheckResult]:
    """Those that failed."""
    return [check for check in checks if check.severity == "error"]


def summary(checks: Sequence[CheckResult]) -> str:
    """How many are well and how many are not."""
    counts = {severity: sum(1 for check in checks if check.severity == severity) for severity in ("error", "warning")}
    parts = [f"{counts['error']} failed"] if counts["error"] else []
    parts += [plural(counts["warning"], "warning")] if counts["warning"] else []
    return ", ".join([*parts, f"{len(checks) - sum(counts.values())} well"])
