"""From an assignment, containers and what the controller sent, to what is routed and how that is told."""

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
    Route,
    RouterPeer,
    RouterStatus,
    TlsCertificate,
)
from devopsellence.nodeagent.ingress.routing import (
    HostInputs,
    IngressInputs,
    RoutingPlan,
    ingress_status,
    must_report_now,
    plan_routing,
)
from devopsellence.nodeagent.plan.actions import ServicePlan
from devopsellence.nodeagent.plan.spec import Desired, resolve_assignment
from tests.unit.nodeagent.support import ENV, UID, container, service

Status = stored_pb2.IngressStatus
Ingress = workload_pb2.Ingress
NOW = Now(0.0, 1_800_000_000.0)
RUNNING = stored_pb2.ServiceStatus.RUNNING
CERTIFICATE = TlsCertificate("0a", "chain", "key")
PEER = RouterPeer("n2", "x.node.devopsellence.internal", "10.0.0.2", 7444)


def web(version: str = "1", **ports: int) -> workload_pb2.Service:
    made = service(version=version)
    for name, port in (ports or {"http": 3000}).items():
        made.ports.add(name=name, port=port)
    return made


def ingress(
    *rules: tuple[str, str, str, str],
    hosts: Sequence[str] = ("app.example.com",),
    mode: Ingress.TlsMode.ValueType = Ingress.AUTO,
    drain: int | None = None,
) -> Ingress:
    rules = rules or (("app.example.com", "/", "web", "http"),)
    made = Ingress(hosts=hosts, tls_mode=mode, redirect_http=True)
    for host, prefix, name, port in rules:
        made.rules.add(host=host, path_prefix=prefix, service=name, port=port)
    if drain is not None:
        made.drain_timeout.FromSeconds(drain)
    return made


def wants(*services: workload_pb2.Service, routed: Ingress | None = None, removed: bool = False) -> Desired:
    assignment = stored_pb2.Assignment(node="n1", node_uid=UID, services=services, ingress=routed, removed=removed)
    return resolve_assignment(assignment, ENV, UID)


def at(made: Container, address: str, ports: Mapping[str, int] | None = None) -> Container:
    (network,) = made.networks
    return replace(made, networks={network: NetworkAttachment("net-1", address)}, ports=ports)


def site(
    want: Desired, *serving: Container, given: IngressInputs | None = None, stopping: frozenset[str] = frozenset()
) -> RoutingPlan:
    names = dict.fromkeys([*want.services, *(each.service for each in serving)])
    services = [
        ServicePlan(name, RUNNING, serving=tuple(each for each in serving if each.service == name)) for name in names
    ]
    return plan_routing(want, services, given or IngressInputs(), stopping, NOW)


def endpoints(found: RoutingPlan) -> dict[tuple[str, str], tuple[Endpoint, ...]]:
    assert found.site is not None
    return {(backend.service, backend.port): backend.endpoints for backend in found.site.backends}


ONE = at(container(web(), identity="c1"), "172.18.0.2", {"http": 3000})


def test_no_ingress_routes_nothing() -> None:
    assert site(wants(web()), ONE) == RoutingPlan(None)
    assert site(wants(web(), routed=ingress(), removed=True), ONE) == RoutingPlan(None)


def test_the_whole_of_it() -> None:
    given = IngressInputs(
        {
            "app.example.com": HostInputs(CERTIFICATE, NOW.wall + 1, (("token", "answer"),)),
            "former.example.com": HostInputs(CERTIFICATE, NOW.wall + 1, (("another", "answer"),)),
        },
        (PEER,),
    )
    found = site(wants(web(), routed=ingress(drain=5)), ONE, given=given)
    assert found.site is not None
    assert found.site.env == ENV
    assert found.site.hosts == ("app.example.com",)
    assert found.site.routes == (Route("app.example.com", "/", "web", "http"),)
    assert found.site.backends == (Backend("web", "http", (Endpoint("c1", "172.18.0.2", 3000),)),)
    assert (found.site.tls, found.site.redirect, found.site.drain_seconds) == (True, True, 5.0)
    assert found.site.certificates == {"app.example.com": CERTIFICATE}
    assert found.site.challenges == {"app.example.com": (("token", "answer"),)}
    assert found.site.peers == (PEER,)
    assert (found.problems, found.remarks, found.unanswered) == ((), (), ())


@pytest.mark.parametrize("mode", [Ingress.AUTO, Ingress.MANUAL, Ingress.OFF], ids=["auto", "manual", "off"])
def test_certificates_are_served_unless_that_is_off(mode: Ingress.TlsMode.ValueType) -> None:
    given = IngressInputs({"app.example.com": HostInputs(CERTIFICATE, NOW.wall + 1)})
    found = site(wants(web(), routed=ingress(mode=mode)), ONE, given=given).site
    assert found is not None
    assert found.tls == bool(found.certificates) == (mode != Ingress.OFF)


@pytest.mark.parametrize(
    ("mode", "command"),
    [(Ingress.AUTO, "ingress check"), (Ingress.MANUAL, "ingress cert install")],
    ids=["auto", "manual"],
)
def test_an_expired_certificate_is_served_and_people_are_told(mode: Ingress.TlsMode.ValueType, command: str) -> None:
    given = IngressInputs({"app.example.com": HostInputs(CERTIFICATE, NOW.wall - 1)})
    found = site(wants(web(), routed=ingress(mode=mode)), ONE, given=given)
    assert found.site is not None
    assert found.site.certificates
    sentence = f"the certificate of app.example.com has expired on 2027-01-15; run devopsellence {command}"
    assert found.remarks == (sentence,)
    beside = site(wants(web(), routed=ingress(mode=mode)), ONE, given=replace(given, remarks=("n2 has no address",)))
    assert beside.remarks == (sentence, "n2 has no address")
    told = ingress_status(found, given, RouterStatus(serving=True))
    assert told is not None
    assert (told.phase, told.reason) == (Status.SERVING, sentence)


def test_an_older_container_is_reached_on_its_own_port() -> None:
    want = wants(web("2", http=4000), routed=ingress())
    assert endpoints(site(want, ONE)) == {("web", "http"): (Endpoint("c1", "172.18.0.2", 3000),)}


def test_assigned_port_counts_without_the_label() -> None:
    want = wants(web("2", http=4000), routed=ingress())
    assert endpoints(site(want, replace(ONE, ports=None))) == {("web", "http"): (Endpoint("c1", "172.18.0.2", 4000),)}


def test_a_port_that_changed_without_a_restart_counts_at_once() -> None:
    want = wants(web(http=4000), routed=ingress())
    assert endpoints(site(want, ONE)) == {("web", "http"): (Endpoint("c1", "172.18.0.2", 4000),)}


def test_an_older_container_without_such_a_port_is_not_reached() -> None:
    want = wants(web("2", http=4000), routed=ingress())
    assert endpoints(site(want, replace(ONE, ports={"metrics": 9090}))) == {("web", "http"): ()}


def test_stopping_or_addressless_container_is_no_endpoint() -> None:
    want = wants(web(), routed=ingress())
    assert endpoints(site(want, ONE, stopping=frozenset(["c1"]))) == {("web", "http"): ()}
    assert endpoints(site(want, replace(ONE, networks={}))) == {("web", "http"): ()}


def test_a_rule_to_a_service_that_was_removed_is_told_and_the_rest_is_served() -> None:
    routed = ingress(("app.example.com", "/", "web", "http"), ("app.example.com", "/api", "api", "http"))
    leaving = at(container(service("api"), identity="c2"), "172.18.0.3", {"http": 3000})
    found = site(wants(web(), routed=routed), ONE, leaving)
    assert endpoints(found) == {("web", "http"): (Endpoint("c1", "172.18.0.2", 3000),), ("api", "http"): ()}
    assert found.problems == ("requests are to go to service api, which is not assigned to this node",)
    told = ingress_status(found, IngressInputs(), RouterStatus(serving=True, http_port=80))
    assert told is not None
    assert (told.phase, told.reason, told.http_port) == (Status.FAILED, found.problems[0], 80)


def test_a_rule_to_a_port_that_there_is_not() -> None:
    found = site(wants(web(), routed=ingress(("app.example.com", "/", "web", "admin"))), ONE)
    assert endpoints(found) == {("web", "admin"): ()}
    assert found.problems == ("requests are to go to port admin of service web, which has no port of that name",)


def test_hosts_are_in_lower_case_and_what_is_none_is_left_out() -> None:
    routed = ingress(
        ("App.Example.com", "", "web", "http"),
        ("a_b.example.com", "/", "web", "http"),
        ("other.example.com", "/", "web", "http"),
        hosts=["App.Example.com", "a_b.example.com", "app.example.com"],
    )
    found = site(wants(web(), routed=routed), ONE)
    assert found.site is not None
    assert found.site.hosts == ("app.example.com",)
    assert found.site.routes == (Route("app.example.com", "/", "web", "http"),)
    first, second = found.problems
    assert first.startswith("host 'a_b.example.com' is not a name")
    assert second == "the rule for other.example.com/ is for a host that ingress.hosts does not have"


def test_until_a_container_can_answer_it_has_not_started() -> None:
    found = site(wants(web(), routed=ingress()))
    assert found.unanswered == ("web",)
    told = ingress_status(found, IngressInputs(), RouterStatus(serving=True))
    assert told is not None
    assert (told.phase, told.reason) == (Status.STARTING, "no container can answer yet for web")


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
def test_the_routers_own_word(router: RouterStatus, phase: Status.Phase.ValueType, reason: str) -> None:
    told = ingress_status(site(wants(web(), routed=ingress()), ONE), IngressInputs(), router)
    assert told is not None
    assert (told.phase, told.reason) == (phase, reason)


def test_problems_are_sorted() -> None:
    answers = tuple(stored_pb2.SigningRequest(id=each) for each in ("1", "2"))
    router = RouterStatus(
        serving=True,
        http_port=80,
        https_port=443,
        certificates={"b.example.com": "2", "a.example.com": "1"},
        challenges=frozenset({"y", "x"}),
    )
    told = ingress_status(site(wants(web(), routed=ingress()), ONE), IngressInputs(answers=answers), router)
    assert told == Status(
        phase=Status.SERVING,
        http_port=80,
        https_port=443,
        certificates=[
            stored_pb2.ServedCertificate(host="a.example.com", serial="1"),
            stored_pb2.ServedCertificate(host="b.example.com", serial="2"),
        ],
        challenges=["x", "y"],
        signing_requests=answers,
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
def test_the_controller_waits_for_some_of_it(before: Status | None, after: Status | None, urgent: bool) -> None:
    assert must_report_now(before, after) == urgent
