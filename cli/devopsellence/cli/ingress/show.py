"""``ingress show`` and ``ingress cert list``: rules and certificates as text and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from devopsellence.api.v1.stored_pb2 import Certificate, Issuance
from devopsellence.cli.render import ingress as ingress_view
from devopsellence.cli.secrets import access, recipients
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.store.snapshot import Snapshot, UnreadableKey
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import age, collapse_ranges, columns, iso, local_time, word
from devopsellence.config.export import ingress_document
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

_RULES: Final = ("HOST", "PATH", "SERVICE", "PORT")
_CERTIFICATES: Final = ("HOST", "ISSUER", "EXPIRES", "SOURCE", "READABLE ON", "NEXT")


@dataclass(frozen=True)
class CertificateEntry:
    """Certificate of a host; ``unable`` are the attached nodes that cannot decrypt the private key."""

    host: str
    certificate: Certificate
    nodes: tuple[str, ...] = ()
    unable: tuple[str, ...] = ()


async def certificates(etcd: Etcd, ref: EnvironmentRef) -> tuple[list[CertificateEntry], list[UnreadableKey]]:
    """Return the certificates of the environment, sorted by host, and the unreadable keys."""
    served = await access.stored_certificates(etcd, ref)
    problems, names = list(served.problems), []
    try:
        names = await recipients.attached(etcd, ref)
    except MalformedRecord as error:
        problems.append(UnreadableKey(error.key, f"not a readable {error.kind}: {error.reason}"))
    readers = await recipients.of_nodes(etcd, names)
    return [_entry(host, certificate, readers) for host, certificate in sorted(served.stored.items())], problems


def _entry(host: str, certificate: Certificate, readers: Recipients) -> CertificateEntry:
    nodes = tuple(readers.nodes_among(certificate.recipients))
    unable = tuple(name for name in readers.names if name not in nodes) if certificate.key_age else ()
    return CertificateEntry(host, certificate, nodes, unable)


def table(entries: Sequence[CertificateEntry], now: datetime) -> str:
    """Return the table of certificates."""
    return columns(_CERTIFICATES, [_cells(entry, now) for entry in entries])


def document(entry: CertificateEntry) -> dict[str, Any]:
    """Return the JSON form of a certificate."""
    return {
        "host": entry.host,
        **(ingress_view.certificate(entry.certificate) or {}),
        "nodes": list(entry.nodes),
        "nodes_without_access": list(entry.unable),
    }


def ingress_text(snapshot: Snapshot, now: datetime) -> str:
    """Return the ingress as text: nodes, rules, URLs with certificates, problems."""
    ingress = ingress_view.ingress_of(snapshot)
    if ingress is None:
        return ""
    nodes = ingress_view.ingress_statuses(snapshot.statuses)
    lines = [
        f"Environment  {snapshot.ref}",
        f"Nodes        {collapse_ranges(nodes) or 'none yet'}",
        f"TLS          {ingress_document(ingress)['tls']['mode']}",
        "",
        columns(_RULES, [[r.host, r.path_prefix, safe(r.service), safe(r.port)] for r in ingress.rules]),
        "",
    ]
    rows = [
        [where, *_summary(snapshot.certificates.get(host), now)]
        for host, where in zip(ingress.hosts, ingress_view.urls(snapshot), strict=True)
    ]
    lines.append(columns(("URL", "CERTIFICATE", "EXPIRES", "NEXT"), rows))
    problem_lines = ingress_view.problem_lines(ingress_view.ingress_problems(snapshot, now))
    return "\n".join([*lines, *([""] if problem_lines else []), *problem_lines])


def ingress_json(snapshot: Snapshot, now: datetime) -> dict[str, Any]:
    """Return the JSON form of the ingress."""
    ingress = ingress_view.ingress_of(snapshot)
    if ingress is None:
        return {}
    settings = ingress_document(ingress)
    return {
        "release": snapshot.target,
        "tls": settings["tls"],
        "redirect_http": ingress.redirect_http,
        "drain_timeout": settings.get("drain_timeout"),
        "rules": settings["rules"],
        **(ingress_view.document(snapshot, now) or {}),
    }


def problems(keys: Iterable[UnreadableKey]) -> list[Mapping[str, str]]:
    """Return the JSON form of unreadable keys."""
    return [{"key": problem.key, "reason": problem.reason} for problem in keys]


def _summary(certificate: Certificate | None, now: datetime) -> list[str]:
    if certificate is None:
        return ["-", "-", "-"]
    return [safe(certificate.issuer) or "-", _expires(certificate, now), _next(certificate, now)]


def _cells(entry: CertificateEntry, now: datetime) -> list[str]:
    certificate = entry.certificate
    readable = "; ".join([", ".join(entry.nodes) or "-", *([f"not {', '.join(entry.unable)}"] if entry.unable else [])])
    return [
        entry.host,
        safe(certificate.issuer) or "-",
        _expires(certificate, now),
        word(Certificate.Source, certificate.source) if certificate.chain_pem else "-",
        readable,
        _next(certificate, now),
    ]


def _expires(certificate: Certificate, now: datetime) -> str:
    if not certificate.chain_pem or iso(certificate.not_after) is None:
        return "-"
    left = certificate.not_after.seconds - now.timestamp()
    return f"in {age(left)}" if left > 0 else f"expired {local_time(certificate.not_after)}"


def _next(certificate: Certificate, now: datetime) -> str:
    """Return the next event of a certificate as text, as far as known."""
    if not certificate.HasField("issuance"):
        return "renewed automatically" if certificate.source == Certificate.ACME else "-"
    issuance = certificate.issuance
    if issuance.phase == Issuance.BACKOFF:
        return ingress_view.failed_attempt(issuance)
    message = "renewal" if certificate.chain_pem else "first certificate"
    reason = f": {safe(issuance.reason)}" if issuance.reason else ""
    return f"{message} in progress ({word(Issuance.Phase, issuance.phase)}){reason}"
