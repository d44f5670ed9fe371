"""``ingress show`` and ``ingress cert list``: what is routed, and the certificates, for people and in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from devopsellence.api.v1.stored_pb2 import Certificate, Issuance
from devopsellence.cli.render import ingress as view
from devopsellence.cli.secrets import access, recipients
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.store.snapshot import Snapshot, UnreadableKey
from devopsellence.cli.util.text import age, collapse_ranges, columns, iso, local_time, safe, word
from devopsellence.config.export import ingress_document
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

_RULES: Final = ("HOST", "PATH", "SERVICE", "PORT")
_CERTIFICATES: Final = ("HOST", "ISSUER", "EXPIRES", "SOURCE", "READABLE ON", "NEXT")


@dataclass(frozen=True)
class CertificateEntry:
    """A host's certificate; ``blind`` are the attached nodes that cannot open its key."""

    host: str
    certificate: Certificate
    nodes: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()


async def certificates(etcd: Etcd, ref: EnvironmentRef) -> tuple[list[CertificateEntry], list[UnreadableKey]]:
    """All certificates of the environment, sorted by host, and what could not be read."""
    served = await access.stored_certificates(etcd, ref)
    problems, names = list(served.problems), []
    try:
        names = await recipients.attached(etcd, ref)
    except MalformedRecord as error:
        problems.append(UnreadableKey(error.key, f"not a readable {error.kind}: {error.reason}"))
    found = await recipients.of_nodes(etcd, names, record=False)
    return [_entry(host, each, found) for host, each in sorted(served.stored.items())], problems


def _entry(host: str, certificate: Certificate, found: Recipients) -> CertificateEntry:
    nodes = tuple(found.nodes_among(certificate.recipients))
    blind = tuple(name for name in found.names if name not in nodes) if certificate.key_age else ()
    return CertificateEntry(host, certificate, nodes, blind)


def table(entries: Sequence[CertificateEntry], now: datetime) -> str:
    """Certificates for a person."""
    return columns(_CERTIFICATES, [_cells(entry, now) for entry in entries])


def document(each: CertificateEntry) -> dict[str, Any]:
    """A certificate in JSON."""
    return {
        "host": each.host,
        **(view.certificate(each.certificate) or {}),
        "nodes": list(each.nodes),
        "nodes_without_access": list(each.blind),
    }


def ingress_text(snapshot: Snapshot, now: datetime) -> str:
    """What is routed, for a person; the snapshot has an ingress."""
    ingress = view.ingress_of(snapshot)
    if ingress is None:
        return ""
    nodes = view.ingress_statuses(snapshot.statuses)
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
        for host, where in zip(ingress.hosts, view.urls(snapshot), strict=True)
    ]
    lines.append(columns(("URL", "CERTIFICATE", "EXPIRES", "NEXT"), rows))
    found = view.problem_lines(view.ingress_problems(snapshot, now))
    return "\n".join([*lines, *([""] if found else []), *found])


def ingress_json(snapshot: Snapshot, now: datetime) -> dict[str, Any]:
    """The same in JSON."""
    ingress = view.ingress_of(snapshot)
    if ingress is None:
        return {}
    settings = ingress_document(ingress)
    return {
        "release": snapshot.target,
        "tls": settings["tls"],
        "redirect_http": ingress.redirect_http,
        "drain_timeout": settings.get("drain_timeout"),
        "rules": settings["rules"],
        **(view.document(snapshot, now) or {}),
    }


def problems(found: Iterable[UnreadableKey]) -> list[Mapping[str, str]]:
    """Keys that cannot be read, in JSON."""
    return [{"key": problem.key, "reason": problem.reason} for problem in found]


def _summary(certificate: Certificate | None, now: datetime) -> list[str]:
    if certificate is None:
        return ["-", "-", "-"]
    return [safe(certificate.issuer) or "-", _expires(certificate, now), _next(certificate, now)]


def _cells(each: CertificateEntry, now: datetime) -> list[str]:
    found = each.certificate
    readable = "; ".join([", ".join(each.nodes) or "-", *([f"not {', '.join(each.blind)}"] if each.blind else [])])
    return [
        each.host,
        safe(found.issuer) or "-",
        _expires(found, now),
        word(Certificate.Source, found.source) if found.chain_pem else "-",
        readable,
        _next(found, now),
    ]


def _expires(found: Certificate, now: datetime) -> str:
    if not found.chain_pem or iso(found.not_after) is None:
        return "-"
    left = found.not_after.seconds - now.timestamp()
    return f"in {age(left)}" if left > 0 else f"expired {local_time(found.not_after)}"


def _next(found: Certificate, now: datetime) -> str:
    """What happens to it next, as far as it is known here."""
    if not found.HasField("issuance"):
        return "renewed in time" if found.source == Certificate.ACME else "-"
    course = found.issuance
    if course.phase == Issuance.BACKOFF:
        return view.failed_attempt(course)
    what = "renewal" if found.chain_pem else "first certificate"
    reason = f": {safe(course.reason)}" if course.reason else ""
    return f"{what} under way ({word(Issuance.Phase, course.phase)}){reason}"
