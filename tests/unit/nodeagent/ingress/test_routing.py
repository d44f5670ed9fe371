"""Planned routing, from assignment, containers and the controller's inputs; and the reported ingress status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, NetworkAttachment
from devopsellence.nodeagent.envoy.model import (
    Backend,
    Endpoint,
    NodeRouting,
    Route,
    RouterPeer,
    RouterStatus,
    RoutingConfig,
    TlsCertificate,
)
from devopsellence.nodeagent.ingress.routing import (
    HostInputs,
    IngressInputs,
    RoutingPlan,
    ingress_status,
    must_report_now,
    plan_routing,
    resolve_host_conflicts,
)
from devopsellence.nodeagent.plan.actions import ServicePlan
from devopsellence.nodeagent.plan.spec import Desired, resolve_assignment
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.planning import ENV, UID, container, service

Status = stored_pb2.IngressStatus
Ingress = workload_pb2.Ingress
NOW = Now(0.0, 1_800_000_000.0)
RUNNING = stored_pb2.ServiceStatus.RUNNING
CERTIFICATE = TlsCertificate("0a", "chain", "key")
PEER = RouterPeer("n2", "x.node.devopsellence.internal", "10.0.0.2", 7444)


def web(version: str = "1", **ports: int) -> workload_pb2.Service:
    message = service(version=version)
    for name, port in (ports or {"http": 3000}).items():
        message.ports.add(name=name, port=port)
    return message


def ingress(
    *rules: tuple[str, str, str, str],
    hosts: Sequence[str] = ("app.example.com",),
    mode: Ingress.TlsMode.ValueType = Ingress.AUTO,
    drain: int | None = None,
) -> Ingress:
    rules = rules or (("app.example.com", "/", "web", "http"),)
    message = Ingress(hosts=hosts, tls_mode=mode, redirect_http=True)
    for host, prefix, name, port in rules:
        message.rules.add(host=host, path_prefix=prefix, service=name, port=port)
    if drain is not None:
        message.drain_timeout.FromSeconds(drain)
    return message


def desired(*services: workload_pb2.Service, routed: Ingress | None = None, removed: bool = False) -> Desired:
    assignment = stored_pb2.Assignment(node="n1", node_uid=UID, services=services, ingress=routed, removed=removed)
    return resolve_assignment(assignment, ENV, UID)


def at(container: Container, address: str, ports: Mapping[str, int] | None = None) -> Container:
    (network,) = container.networks
    return replace(container, networks={network: NetworkAttachment("net-1", address)}, ports=ports)


def plan(
    assigned: Desired, *serving: Container, inputs: IngressInputs | None = None, stopping: frozenset[str] = frozenset()
) -> RoutingPlan:
    names = dict.fromkeys([*assigned.services, *(container.service for container in serving)])
    services = [
        ServicePlan(name, RUNNING, serving=tuple(container for container in serving if container.service == name))
        for name in names
    ]
    return plan_routing(assigned, services, inputs or IngressInputs(), stopping, NOW)


def endpoints(planned: RoutingPlan) -> dict[tuple[str, str], tuple[Endpoint, ...]]:
    assert planned.config is not None
    return {(backend.service, backend.port): backend.endpoints for backend in planned.config.backends}


ONE = at(container(web(), identity="c1"), "172.18.0.2", {"http": 3000})


def test_no_ingress_routes_nothing() -> None:
    assert plan(desired(web()), ONE) == RoutingPlan(None)
    assert plan(desired(web(), routed=ingress(), removed=True), ONE) == RoutingPlan(None)


def test_routing_config_has_all_inputs() -> None:
    inputs = IngressInputs(
        {
            "app.example.com": HostInputs(CERTIFICATE, NOW.wall + 1, (("token", "answer"),)),
            "former.example.com": HostInputs(CERTIFICATE, NOW.wall + 1, (("another", "answer"),)),
        },
        (PEER,),
    )
    planned = plan(desired(web(), routed=ingress(drain=5)), ONE, inputs=inputs)
    assert planned.config is not None
    assert planned.config.ref == ENV
    assert planned.config.hosts == ("app.example.com",)
    assert planned.config.routes == (Route("app.example.com", "/", "web", "http"),)
    assert planned.config.backends == (Backend("web", "http", (Endpoint("c1", "172.18.0.2", 3000),)),)
    assert (planned.config.tls, planned.config.redirect, planned.config.drain_seconds) == (True, True, 5.0)
    assert planned.config.certificates == {"app.example.com": CERTIFICATE}
    assert planned.config.challenges == {"app.example.com": (("token", "answer"),)}
    assert planned.config.peers == (PEER,)
    assert (planned.problems, planned.warnings, planned.not_ready) == ((), (), ())


@pytest.mark.parametrize("mode", [Ingress.AUTO, Ingress.MANUAL, Ingress.OFF], ids=["auto", "manual", "off"])
def test_certificates_are_served_unless_tls_is_off(mode: Ingress.TlsMode.ValueType) -> None:
    inputs = IngressInputs({"app.example.com": HostInputs(CERTIFICATE, NOW.wall + 1)})
    planned = plan(desired(web(), routed=ingress(mode=mode)), ONE, inputs=inputs).config
    assert planned is not None
    assert planned.tls == bool(planned.certificates) == (mode != Ingress.OFF)


@pytest.mark.parametrize(
    ("mode", "command"),
    [(Ingress.AUTO, "ingress check"), (Ingress.MANUAL, "ingress cert install")],
    ids=["auto", "manual"],
)
def test_expired_certificate_is_served_with_a_warning(mode: Ingress.TlsMode.ValueType, command: str) -> None:
    inputs = IngressInputs({"app.example.com": HostInputs(CERTIFICATE, NOW.wall - 1)})
    planned = plan(desired(web(), routed=ingress(mode=mode)), ONE, inputs=inputs)
    assert planned.config is not None
    assert planned.config.certificates
    sentence = f"the certificate of app.example.com expired on 2027-01-15; run devopsellence {command}"
    assert planned.warnings == (sentence,)
    both = plan(desired(web(), routed=ingress(mode=mode)), ONE, inputs=replace(inputs, warnings=("n2 has no address",)))
    assert both.warnings == (sentence, "n2 has no address")
    reported = ingress_status(planned, inputs, RouterStatus(serving=True))
    assert reported is not None
    assert (reported.phase, reported.reason) == (Status.SERVING, sentence)


def test_older_container_keeps_its_own_port() -> None:
    assigned = desired(web("2", http=4000), routed=ingress())
    assert endpoints(plan(assigned, ONE)) == {("web", "http"): (Endpoint("c1", "172.18.0.2", 3000),)}


def test_assigned_port_counts_for_container_without_port_label() -> None:
    assigned = desired(web("2", http=4000), routed=ingress())
    assert endpoints(plan(assigned, replace(ONE, ports=None))) == {
        ("web", "http"): (Endpoint("c1", "172.18.0.2", 4000),)
    }


def test_changed_port_counts_at_once() -> None:
    assigned = desired(web(http=4000), routed=ingress())
    assert endpoints(plan(assigned, ONE)) == {("web", "http"): (Endpoint("c1", "172.18.0.2", 4000),)}


def test_older_container_without_the_port_is_no_endpoint() -> None:
    assigned = desired(web("2", http=4000), routed=ingress())
    assert endpoints(plan(assigned, replace(ONE, ports={"metrics": 9090}))) == {("web", "http"): ()}


def test_stopping_or_addressless_container_is_no_endpoint() -> None:
    assigned = desired(web(), routed=ingress())
    assert endpoints(plan(assigned, ONE, stopping=frozenset(["c1"]))) == {("web", "http"): ()}
    assert endpoints(plan(assigned, replace(ONE, networks={}))) == {("web", "http"): ()}


def test_rule_to_removed_service_is_a_problem() -> None:
    routed = ingress(("app.example.com", "/", "web", "http"), ("app.example.com", "/api", "api", "http"))
    removed = at(container(service("api"), identity="c2"), "172.18.0.3", {"http": 3000})
    planned = plan(desired(web(), routed=routed), ONE, removed)
    assert endpoints(planned) == {("web", "http"): (Endpoint("c1", "172.18.0.2", 3000),), ("api", "http"): ()}
    assert planned.problems == ("a rule routes to service api, which is not assigned to this node",)
    router = RouterStatus(serving=True, http_port=80, configured_ports=(80, 443))
    reported = ingress_status(planned, IngressInputs(), router)
    assert reported is not None
    assert (reported.phase, reported.reason, reported.http_port) == (Status.FAILED, planned.problems[0], 80)
    assert (reported.https_port, reported.configured_http_port, reported.configured_https_port) == (0, 80, 443)


def test_requests_for_services_elsewhere_are_forwarded() -> None:
    inputs = IngressInputs(peers=(RouterPeer("n2", "n2.internal", "10.0.0.2", 7444),))
    planned = plan(desired(routed=ingress()), inputs=inputs)
    assert endpoints(planned) == {("web", "http"): ()}
    assert (planned.problems, planned.not_ready) == ((), ())
    assert planned.warnings == ("requests for web are forwarded to n2",)
    reported = ingress_status(planned, inputs, RouterStatus(serving=True, http_port=80, configured_ports=(80, 0)))
    assert reported is not None
    assert (reported.phase, reported.reason) == (Status.SERVING, planned.warnings[0])


def test_rule_to_missing_port_is_a_problem() -> None:
    planned = plan(desired(web(), routed=ingress(("app.example.com", "/", "web", "admin"))), ONE)
    assert endpoints(planned) == {("web", "admin"): ()}
    assert planned.problems == ("a rule routes to port admin of service web, which has no port of that name",)


def test_hosts_are_lower_case_and_valid() -> None:
    routed = ingress(
        ("App.Example.com", "", "web", "http"),
        ("a_b.example.com", "/", "web", "http"),
        ("other.example.com", "/", "web", "http"),
        hosts=["App.Example.com", "a_b.example.com", "app.example.com"],
    )
    planned = plan(desired(web(), routed=routed), ONE)
    assert planned.config is not None
    assert planned.config.hosts == ("app.example.com",)
    assert planned.config.routes == (Route("app.example.com", "/", "web", "http"),)
    first, second = planned.problems
    assert first.startswith("host 'a_b.example.com' is not a name")
    assert second == "the rule for other.example.com/ has a host that is missing from ingress.hosts"


def test_status_is_starting_without_endpoints() -> None:
    planned = plan(desired(web(), routed=ingress()))
    assert planned.not_ready == ("web",)
    reported = ingress_status(planned, IngressInputs(), RouterStatus(serving=True))
    assert reported is not None
    assert (reported.phase, reported.reason) == (Status.STARTING, "no container can take requests yet for web")


@pytest.mark.parametrize(
    ("router", "phase", "reason"),
    [
        (RouterStatus(), Status.STARTING, ""),
        (RouterStatus(reason="its image is pulled"), Status.STARTING, "its image is pulled"),
        (RouterStatus(serving=True), Status.SERVING, ""),
        (RouterStatus(serving=True, reason="port 443 is taken"), Status.SERVING, "port 443 is taken"),
        (RouterStatus(serving=True, failed=True, reason="port 443 is taken"), Status.FAILED, "port 443 is taken"),
    ],
    ids=["starting", "starting, with a reason", "serving", "serving, with a remark", "failed"],
)
def test_status_reports_phase_of_router(router: RouterStatus, phase: Status.Phase.ValueType, reason: str) -> None:
    reported = ingress_status(plan(desired(web(), routed=ingress()), ONE), IngressInputs(), router)
    assert reported is not None
    assert (reported.phase, reported.reason) == (phase, reason)


def test_status_fields_are_sorted() -> None:
    signing_requests = tuple(stored_pb2.SigningRequest(id=request_id) for request_id in ("1", "2"))
    router = RouterStatus(
        serving=True,
        http_port=80,
        https_port=443,
        certificates={"b.example.com": "2", "a.example.com": "1"},
        challenges=frozenset({"y", "x"}),
    )
    reported = ingress_status(
        plan(desired(web(), routed=ingress()), ONE), IngressInputs(signing_requests=signing_requests), router
    )
    assert reported == Status(
        phase=Status.SERVING,
        http_port=80,
        https_port=443,
        certificates=[
            stored_pb2.ServedCertificate(host="a.example.com", serial="1"),
            stored_pb2.ServedCertificate(host="b.example.com", serial="2"),
        ],
        challenges=["x", "y"],
        signing_requests=signing_requests,
    )


@pytest.mark.parametrize(
    ("before", "after", "urgent"),
    [
        (None, None, False),
        (Status(challenges=["x"]), None, False),
        (None, Status(phase=Status.STARTING), False),
        (None, Status(challenges=["x"]), True),
        (Status(challenges=["x"]), Status(challenges=["x"], reason="another"), False),
        (Status(challenges=["x"]), Status(), True),
        (Status(), Status(signing_requests=[stored_pb2.SigningRequest(id="1")]), True),
        (Status(), Status(certificates=[stored_pb2.ServedCertificate(host="a", serial="1")]), True),
    ],
    ids=["nothing", "left", "began", "challenge", "reason", "no challenge", "answer", "certificate"],
)
def test_changes_awaited_by_the_controller_are_urgent(
    before: Status | None, after: Status | None, urgent: bool
) -> None:
    assert must_report_now(before, after) == urgent


PRODUCTION = EnvironmentRef("acme", "shop", "production")
STAGING = EnvironmentRef("acme", "shop", "staging")
SHARED = RoutingConfig(
    PRODUCTION,
    ("a.example", "b.example"),
    (Route("a.example", "/", "web", "http"), Route("b.example", "/", "web", "http")),
    (Backend("web", "http", (Endpoint("one", "10.0.0.2", 3000),)),),
    tls=True,
    redirect=True,
    certificates={"a.example": CERTIFICATE},
    challenges={"b.example": (("token", "answer"),)},
    peers=(RouterPeer("n2", "x.node.devopsellence.internal", "10.9.0.2", 7444),),
    drain_seconds=12.5,
)


def test_host_conflict_is_won_by_first_environment() -> None:
    later = replace(SHARED, ref=STAGING, hosts=("b.example", "c.example"), certificates={}, challenges={})
    routing, problems = resolve_host_conflicts([later, replace(SHARED, hosts=("b.example",))])
    assert [(config.ref, config.hosts) for config in routing.configs] == [
        (PRODUCTION, ("b.example",)),
        (STAGING, ("c.example",)),
    ]
    assert all(route.host != "b.example" for route in routing.configs[1].routes)
    assert problems == {
        STAGING: "host b.example belongs to acme/shop/production on this node: remove the host from either environment "
        "and deploy the change"
    }


def test_host_conflict_is_won_by_the_environment_that_holds_the_host() -> None:
    later = replace(SHARED, ref=STAGING, hosts=("b.example",), held_hosts=("b.example",))
    routing, problems = resolve_host_conflicts([later, SHARED])
    assert [(config.ref, config.hosts) for config in routing.configs] == [
        (PRODUCTION, ("a.example",)),
        (STAGING, ("b.example",)),
    ]
    assert problems == {
        PRODUCTION: "host b.example belongs to acme/shop/staging on this node: remove the host from either environment "
        "and deploy the change"
    }


def test_host_that_another_environment_holds_is_not_served_and_the_others_are() -> None:
    routed = ingress(hosts=("app.example.com", "b.example.com"))
    inputs = IngressInputs(taken_hosts={"app.example.com": "acme/blog/production"}, held_hosts=("b.example.com",))
    planned = plan(desired(web(), routed=routed), ONE, inputs=inputs)
    assert planned.config is not None
    assert (planned.config.hosts, planned.config.held_hosts) == (("b.example.com",), ("b.example.com",))
    assert {route.host for route in planned.config.routes} <= {"b.example.com"}
    (problem,) = planned.problems
    assert problem.startswith("host app.example.com belongs to acme/blog/production on this node: remove the host")


def test_environments_without_host_conflict_are_unchanged() -> None:
    other = replace(SHARED, ref=STAGING, hosts=("c.example",))
    assert resolve_host_conflicts([other, SHARED]) == (NodeRouting((SHARED, other)), {})
