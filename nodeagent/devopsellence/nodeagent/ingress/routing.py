"""Routing of an environment, planned from its assignment, its containers and the controller's inputs. Pure.

:func:`plan_routing` returns the routing configuration for the router together with everything that people should know;
:func:`ingress_status` adds the router's status to form the reported status. :func:`resolve_host_conflicts` settles
hosts claimed by two environments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.clock import Now
from devopsellence.names import InvalidName, check_host
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.envoy.model import (
    DEFAULT_DRAIN_SECONDS,
    Backend,
    Endpoint,
    NodeRouting,
    Route,
    RouterPeer,
    RouterStatus,
    RoutingConfig,
    TlsCertificate,
)
from devopsellence.nodeagent.plan.actions import ServicePlan
from devopsellence.nodeagent.plan.spec import Desired, DesiredService, seconds
from devopsellence.store.keys import EnvironmentRef

_Ingress = workload_pb2.Ingress
_Status = stored_pb2.IngressStatus
_TLS: Final = frozenset({_Ingress.AUTO, _Ingress.MANUAL})


@dataclass(frozen=True, slots=True)
class HostInputs:
    """The controller's inputs about one host.

    ``not_after``: expiry of the certificate (seconds since the epoch), infinite while unknown. ``challenges``: ACME
    tokens and key authorizations.
    """

    certificate: TlsCertificate | None = None
    not_after: float = 0.0
    challenges: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class IngressInputs:
    """The controller's inputs about an environment's ingress, besides the assignment.

    ``peers``: with IP addresses once in a routing configuration. ``forwarders``, ``held_hosts``: as in RoutingConfig.
    ``taken_hosts``: hosts that another environment holds on this node, with its name. ``signing_requests``: CSRs in
    response to key requests, sorted by id. ``problems``: sentences about unusable inputs. ``warnings``: sentences about
    usable inputs.
    """

    hosts: Mapping[str, HostInputs] = field(default_factory=dict)
    peers: tuple[RouterPeer, ...] = ()
    forwarders: tuple[str, ...] | None = ()
    held_hosts: tuple[str, ...] = ()
    taken_hosts: Mapping[str, str] = field(default_factory=dict)
    signing_requests: tuple[stored_pb2.SigningRequest, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoutingPlan:
    """Result of :func:`plan_routing`.

    ``config``: None without an ingress. ``problems``: sentences about anything not routed as assigned. ``warnings``:
    sentences about anything routed as assigned. ``not_ready``: services without a container that can take requests yet.
    """

    config: RoutingConfig | None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    not_ready: tuple[str, ...] = ()


def plan_routing(
    desired: Desired, services: Iterable[ServicePlan], inputs: IngressInputs, stopping: Collection[str], now: Now
) -> RoutingPlan:
    """Plan the routing of an environment. ``stopping``: ids of containers being stopped at this moment."""
    ingress = desired.ingress
    if ingress is None:
        return RoutingPlan(None)
    serving = {
        service.service: [container for container in service.serving if container.id not in stopping]
        for service in services
    }
    hosts, host_problems = _hosts(ingress)
    taken = {host: inputs.taken_hosts[host] for host in hosts if host in inputs.taken_hosts}
    routes, rule_problems = _routes(ingress, hosts)
    targets = sorted({(route.service, route.port) for route in routes})
    backends = [
        Backend(service, port, _endpoints(desired, service, port, serving.get(service, ())))
        for service, port in targets
    ]
    # As on a drained node: its router forwards to those of other nodes.
    forwarded = sorted({service for service, _ in targets if service not in desired.services}) if inputs.peers else []
    own_targets = (target for target in targets if target[0] not in forwarded)
    target_problems = filter(None, (_target_problem(desired, *target) for target in own_targets))
    tls = ingress.tls_mode in _TLS
    host_inputs = {host: inputs.hosts[host] for host in hosts if host in inputs.hosts}
    certificates = {
        host: part.certificate for host, part in host_inputs.items() if tls and part.certificate is not None
    }
    config = RoutingConfig(
        ref=desired.ref,
        hosts=hosts,
        routes=routes,
        backends=tuple(backends),
        tls=tls,
        redirect=ingress.redirect_http,
        certificates=certificates,
        challenges={host: part.challenges for host, part in host_inputs.items() if part.challenges},
        peers=inputs.peers,
        forwarders=inputs.forwarders,
        held_hosts=tuple(host for host in hosts if host in inputs.held_hosts),
        drain_seconds=_drain_seconds(ingress),
    )
    if taken:
        config = _without_hosts(config, taken)
        host_problems.append(_taken_problem(taken))
    expired = (
        _expired(host, host_inputs[host].not_after, ingress)
        for host in certificates
        if host_inputs[host].not_after < now.wall
    )
    not_ready = {
        backend.service for backend in backends if not backend.endpoints and backend.service in desired.services
    }
    return RoutingPlan(
        config,
        (*host_problems, *rule_problems, *target_problems, *inputs.problems),
        (*expired, *inputs.warnings, *_forwarding(forwarded, inputs.peers)),
        tuple(sorted(not_ready)),
    )


def with_former_inputs(config: RoutingConfig, former: RoutingConfig | None) -> RoutingConfig:
    """Return ``config`` with the certificates and peers of the ``former`` routing where it has none of its own.

    For an environment whose ingress parts on disk cannot all be read, until etcd has been.
    """
    if former is None or former.ref != config.ref:
        return config
    certificates = {host: former.certificates[host] for host in config.hosts if host in former.certificates}
    return replace(
        config,
        certificates={**certificates, **config.certificates} if config.tls else config.certificates,
        peers=config.peers or former.peers,
        forwarders=former.forwarders if config.forwarders == () else config.forwarders,
        held_hosts=config.held_hosts or former.held_hosts,
    )


def ingress_status(plan: RoutingPlan, inputs: IngressInputs, router: RouterStatus) -> stored_pb2.IngressStatus | None:
    """Return the ingress status that the agent reports; None without an ingress."""
    if plan.config is None:
        return None
    phase, reason = _phase(plan, router)
    return _Status(
        phase=phase,
        reason=reason,
        http_port=router.http_port,
        https_port=router.https_port,
        configured_http_port=router.configured_ports[0],
        configured_https_port=router.configured_ports[1],
        certificates=[
            stored_pb2.ServedCertificate(host=host, serial=serial)
            for host, serial in sorted(router.certificates.items())
        ],
        challenges=sorted(router.challenges),
        signing_requests=inputs.signing_requests,
    )


def must_report_now(before: stored_pb2.IngressStatus | None, after: stored_pb2.IngressStatus | None) -> bool:
    """Return whether a status field changed that the controller waits for, so that the report must not be delayed."""
    return after is not None and _urgent_fields(before or _Status()) != _urgent_fields(after)


def _urgent_fields(status: stored_pb2.IngressStatus) -> tuple[object, ...]:
    certificates = [(certificate.host, certificate.serial) for certificate in status.certificates]
    return list(status.challenges), [request.id for request in status.signing_requests], certificates


def _phase(plan: RoutingPlan, router: RouterStatus) -> tuple[stored_pb2.IngressStatus.Phase.ValueType, str]:
    if router.failed:
        return _Status.FAILED, router.reason
    if plan.problems:
        return _Status.FAILED, "; ".join(plan.problems)
    if not router.serving:
        return _Status.STARTING, router.reason
    if plan.not_ready:
        return _Status.STARTING, f"no container can take requests yet for {', '.join(plan.not_ready)}"
    return _Status.SERVING, "; ".join(filter(None, (router.reason, *plan.warnings)))


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
            # The first of two equal rules wins, as in Envoy.
            routes.setdefault((host, prefix), Route(host, prefix, rule.service, rule.port))
        elif host not in {name.lower() for name in ingress.hosts}:
            problems.append(f"the rule for {rule.host}{prefix} has a host that is missing from ingress.hosts")
    return tuple(routes.values()), problems


def _endpoints(desired: Desired, service: str, port: str, serving: Iterable[Container]) -> tuple[Endpoint, ...]:
    desired_service = desired.services.get(service)
    if desired_service is None:
        return ()
    endpoints: Iterator[Endpoint] = (
        Endpoint(container.id, address, number)
        for container in serving
        if (address := container.address_on(desired.network))
        and (number := _port_number(desired_service, container, port))
    )
    return tuple(sorted(endpoints))


def _port_number(desired: DesiredService, container: Container, port: str) -> int:
    """Return the number of a container's named port; 0: the container has no such port.

    The assignment counts for containers of the assigned specification, because ports change without a restart; older
    containers have their own ports.
    """
    assigned = {assigned_port.name: assigned_port.port for assigned_port in desired.spec.ports}
    ports = assigned if container.hash == desired.hash or container.ports is None else container.ports
    return ports.get(port, 0)


def _target_problem(desired: Desired, service: str, port: str) -> str:
    desired_service = desired.services.get(service)
    if desired_service is None:
        return f"a rule routes to service {service}, which is not assigned to this node"
    if port not in {assigned_port.name for assigned_port in desired_service.spec.ports}:
        return f"a rule routes to port {port} of service {service}, which has no port of that name"
    return ""


def _forwarding(services: Collection[str], peers: Iterable[RouterPeer]) -> list[str]:
    nodes = ", ".join(sorted(peer.node for peer in peers))
    return [f"requests for {', '.join(services)} are forwarded to {nodes}"] if services else []


def _expired(host: str, not_after: float, ingress: workload_pb2.Ingress) -> str:
    day = datetime.fromtimestamp(not_after, UTC).date().isoformat()
    command = "ingress check" if ingress.tls_mode == _Ingress.AUTO else "ingress cert install"
    return f"the certificate of {host} expired on {day}; run devopsellence {command}"


def _drain_seconds(ingress: workload_pb2.Ingress) -> float:
    return seconds(ingress.drain_timeout) if ingress.HasField("drain_timeout") else DEFAULT_DRAIN_SECONDS


def resolve_host_conflicts(configs: Iterable[RoutingConfig]) -> tuple[NodeRouting, dict[EnvironmentRef, str]]:
    """Give every host to the environment that holds it, else to the one that sorts first.

    Return the node's routing and problems by environment. Commands reject a host that another environment has; a
    conflict arises if two commands run at the same time. Then the controller decides, but for a host that it has not
    decided about yet.
    """
    in_order = sorted(configs, key=lambda config: config.ref)
    owners: dict[str, EnvironmentRef] = {}
    for holding in (True, False):
        for config in in_order:
            for host in config.hosts:
                if (host in config.held_hosts) is holding:
                    owners.setdefault(host, config.ref)
    resolved: list[RoutingConfig] = []
    problems: dict[EnvironmentRef, str] = {}
    for config in in_order:
        lost = {host: str(owners[host]) for host in config.hosts if owners[host] != config.ref}
        resolved.append(_without_hosts(config, lost) if lost else config)
        if lost:
            problems[config.ref] = _taken_problem(lost)
    return NodeRouting(tuple(resolved)), problems


def _taken_problem(taken: Mapping[str, str]) -> str:
    host, owner = min(taken.items())
    more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
    return (
        f"host {host}{more} belongs to {owner} on this node: remove the host from either environment and "
        "deploy the change"
    )


def _without_hosts(config: RoutingConfig, lost: Iterable[str]) -> RoutingConfig:
    removed = frozenset(lost)
    return replace(
        config,
        hosts=tuple(host for host in config.hosts if host not in removed),
        routes=tuple(route for route in config.routes if route.host not in removed),
        certificates={host: certificate for host, certificate in config.certificates.items() if host not in removed},
        challenges={host: challenges for host, challenges in config.challenges.items() if host not in removed},
    )
