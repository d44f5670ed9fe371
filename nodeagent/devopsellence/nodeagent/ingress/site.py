"""From an assignment, what its plan says of containers and what the controller sent, to what is to be routed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.names import InvalidName, check_host
from devopsellence.nodeagent.docker.model import Container, Now
from devopsellence.nodeagent.envoy.model import (
    DEFAULT_DRAIN_SECONDS,
    Backend,
    Endpoint,
    Route,
    RouterPeer,
    RouterStatus,
    Routing,
    Site,
    TlsCertificate,
)
from devopsellence.nodeagent.plan.actions import ServicePlan
from devopsellence.nodeagent.plan.spec import Desired, Wanted, seconds
from devopsellence.store.keys import EnvironmentRef

_Ingress = workload_pb2.Ingress
_Status = stored_pb2.IngressStatus
_TLS: Final = frozenset({_Ingress.AUTO, _Ingress.MANUAL})


@dataclass(frozen=True, slots=True)
class HostPart:
    """What the controller sent about one host. ``not_after``: until when the certificate is valid (seconds since the
    epoch), infinite while that is not known. ``challenges``: token and key authorization."""

    certificate: TlsCertificate | None = None
    not_after: float = 0.0
    challenges: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What the controller sent about an environment's ingress besides its assignment, by host.

    ``peers`` are by IP address where they go into a site. ``answers``: to requests for keys, sorted by id.
    ``problems``: what of it cannot be used, in sentences; ``remarks``: what people should know, although it is used.
    """

    hosts: Mapping[str, HostPart] = field(default_factory=dict)
    peers: tuple[RouterPeer, ...] = ()
    answers: tuple[stored_pb2.SigningRequest, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sited:
    """``site`` is None where nothing is to be routed. ``problems``: what is not as assigned, in sentences; ``remarks``:
    what is as assigned, and people should know. ``unanswered``: services that have no container to answer yet."""

    site: Site | None
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    unanswered: tuple[str, ...] = ()


def sited(want: Desired, services: Iterable[ServicePlan], given: Given, stopping: Collection[str], now: Now) -> Sited:
    """What is to be routed. ``stopping``: the containers (ids) that are being stopped at this moment."""
    ingress = want.ingress
    if ingress is None:
        return Sited(None)
    serving = {service.service: [one for one in service.serving if one.id not in stopping] for service in services}
    hosts, problems = _hosts(ingress)
    routes, unrouted = _routes(ingress, hosts)
    ports = sorted({(route.service, route.port) for route in routes})
    backends = [Backend(*port, _endpoints(want, *port, serving.get(port[0], ()))) for port in ports]
    missing = [*problems, *unrouted, *(said for port in ports if (said := _missing(want, *port)))]
    tls = ingress.tls_mode in _TLS
    known = {host: given.hosts[host] for host in hosts if host in given.hosts}
    certificates = {host: part.certificate for host, part in known.items() if tls and part.certificate is not None}
    site = Site(
        env=want.env,
        hosts=hosts,
        routes=routes,
        backends=tuple(backends),
        tls=tls,
        redirect=ingress.redirect_http,
        certificates=certificates,
        challenges={host: part.challenges for host, part in known.items() if part.challenges},
        peers=given.peers,
        drain_seconds=_drain_seconds(ingress),
    )
    return Sited(
        site,
        (*missing, *given.problems),
        (
            *(
                _expired(host, known[host].not_after, ingress)
                for host in certificates
                if known[host].not_after < now.wall
            ),
            *given.remarks,
        ),
        tuple(
            sorted(
                {backend.service for backend in backends if not backend.endpoints and backend.service in want.services}
            )
        ),
    )


def status(found: Sited, given: Given, router: RouterStatus) -> stored_pb2.IngressStatus | None:
    """How it fares, as the agent reports it; None where nothing is to be routed."""
    if found.site is None:
        return None
    phase, reason = _phase(found, router)
    return _Status(
        phase=phase,
        reason=reason,
        http_port=router.http_port,
        https_port=router.https_port,
        certificates=[
            stored_pb2.ServedCertificate(host=host, serial=serial)
            for host, serial in sorted(router.certificates.items())
        ],
        challenges=sorted(router.challenges),
        signing_requests=given.answers,
    )


def awaited(before: stored_pb2.IngressStatus | None, after: stored_pb2.IngressStatus | None) -> bool:
    """Something that the controller waits for is another: it is told at once."""
    return after is not None and _told(before or _Status()) != _told(after)


def _told(said: stored_pb2.IngressStatus) -> tuple[object, ...]:
    certificates = [(certificate.host, certificate.serial) for certificate in said.certificates]
    return list(said.challenges), [signing_request.id for signing_request in said.signing_requests], certificates


def _phase(found: Sited, router: RouterStatus) -> tuple[stored_pb2.IngressStatus.Phase.ValueType, str]:
    if router.failed:
        return _Status.FAILED, router.reason
    if found.problems:
        return _Status.FAILED, "; ".join(found.problems)
    if not router.serving:
        return _Status.STARTING, router.reason
    if found.unanswered:
        return _Status.STARTING, f"no container can answer yet for {', '.join(found.unanswered)}"
    return _Status.SERVING, "; ".join(filter(None, (router.reason, *found.remarks)))


def _hosts(ingress: workload_pb2.Ingress) -> tuple[tuple[str, ...], list[str]]:
    hosts: dict[str, None] = {}
    problems = []
    for host in ingress.hosts:
        try:
            hosts[check_host(host.lower())] = None
        except InvalidName as error:
            problems.append(str(error))
    return tuple(hosts), problems


def _routes(ingress: workload_pb2.Ingress, hosts: Collection[str]) -> tuple[tuple[Route, ...], list[str]]:
    routes: dict[tuple[str, str], Route] = {}
    problems = []
    for rule in ingress.rules:
        host, prefix = rule.host.lower(), rule.path_prefix or "/"
        if host in hosts:
            # Of two for the same the first counts, as Envoy would have it.
            routes.setdefault((host, prefix), Route(host, prefix, rule.service, rule.port))
        elif host not in {each.lower() for each in ingress.hosts}:
            problems.append(f"the rule for {rule.host}{prefix} is for a host that ingress.hosts does not have")
    return tuple(routes.values()), problems


def _endpoints(want: Desired, service: str, port: str, serving: Iterable[Container]) -> tuple[Endpoint, ...]:
    wanted = want.services.get(service)
    if wanted is None:
        return ()
    found: Iterator[Endpoint] = (
        Endpoint(each.id, address, number)
        for each in serving
        if (address := each.address_on(want.network)) and (number := _number(wanted, each, port))
    )
    return tuple(sorted(found))


def _number(wanted: Wanted, container: Container, port: str) -> int:
    """The port of that name on which a container listens; 0: none. What is assigned counts for a container of the
    assigned spec, because ports change without a restart; an older one has its own."""
    assigned = {each.name: each.port for each in wanted.service.ports}
    own = assigned if container.hash == wanted.hash or container.ports is None else container.ports
    return own.get(port, 0)


def _missing(want: Desired, service: str, port: str) -> str:
    wanted = want.services.get(service)
    if wanted is None:
        return f"requests are to go to service {service}, which is not assigned to this node"
    if port not in {each.name for each in wanted.service.ports}:
        return f"requests are to go to port {port} of service {service}, which has no port of that name"
    return ""


def _expired(host: str, not_after: float, ingress: workload_pb2.Ingress) -> str:
    day = datetime.fromtimestamp(not_after, UTC).date().isoformat()
    mend = "ingress check" if ingress.tls_mode == _Ingress.AUTO else "ingress cert install"
    return f"the certificate of {host} has expired on {day}; run devopsellence {mend}"


def _drain_seconds(ingress: workload_pb2.Ingress) -> float:
    return seconds(ingress.drain_timeout) if ingress.HasField("drain_timeout") else DEFAULT_DRAIN_SECONDS


# MERGED Hosts that two environments on a node both want: one gets it, and the other is t


def settle(sites: Iterable[Site]) -> tuple[Routing, dict[EnvironmentRef, str]]:
    """Each host with the environment that sorts first; what the others are to be told, by environment.

    Commands refuse a host that another environment has; here is what two that did not see one another lead to.
    """
    owners: dict[str, EnvironmentRef] = {}
    settled: list[Site] = []
    told: dict[EnvironmentRef, str] = {}
    for site in sorted(sites, key=lambda each: each.env):
        lost = {host: owners[host] for host in site.hosts if host in owners}
        owners.update({host: site.env for host in site.hosts if host not in owners})
        settled.append(_without(site, lost) if lost else site)
        if lost:
            host, owner = min(lost.items())
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            told[site.env] = (
                f"host {host}{more} belongs to {owner} on this node: take it out of one of the two and deploy that"
            )
    return Routing(tuple(settled)), told


def _without(site: Site, lost: Iterable[str]) -> Site:
    gone = frozenset(lost)
    return replace(
        site,
        hosts=tuple(host for host in site.hosts if host not in gone),
        routes=tuple(route for route in site.routes if route.host not in gone),
        certificates={host: each for host, each in site.certificates.items() if host not in gone},
        challenges={host: each for host, each in site.challenges.items() if host not in gone},
    )
