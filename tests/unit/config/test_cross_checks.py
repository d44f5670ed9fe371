"""Checks across sections: kinds, references, duplicates, cycles."""

from __future__ import annotations

import json

import pytest

from tests.unit.config.conftest import HEAD, WEB, Parse, Problems

NO_HTTP = "must expose an http port (an entry of ports with name: http)"
HTTP = "ports: [{name: http, port: 80}]"


@pytest.mark.parametrize(
    ("why", "service", "expected"),
    [
        ("called web, it needs both", "web: {}", [f"services.web {NO_HTTP}", "services.web.healthcheck is required"]),
        ("called web, with a port", f"web: {{{HTTP}}}", ["services.web.healthcheck is required"]),
        ("called web, with a health check", "web: {healthcheck: {}}", [f"services.web {NO_HTTP}"]),
        ("a port named http makes it web", f"api: {{{HTTP}}}", ["services.api.healthcheck is required"]),
        ("a health check makes it web", "api: {healthcheck: {path: /up}}", [f"services.api {NO_HTTP}"]),
        ("both make it web", f"api: {{{HTTP}, healthcheck: {{}}}}", []),
        ("another port leaves it a worker", "api: {ports: [{name: grpc, port: 80}]}", []),
        ("a readiness leaves it a worker", "api: {readiness: {tcp: 80}}", []),
        ("a health check without a value is none", "api: {healthcheck: }", []),
        ("Web is not web", "Web: {}", []),
    ],
)
def test_web_service_needs_an_http_port_and_a_health_check(
    problems: Problems, why: str, service: str, expected: list[str]
) -> None:
    assert problems(HEAD + "services:\n  " + service) == expected, why


def test_wrong_shape_does_not_hide_other_problems(problems: Problems) -> None:
    text = HEAD + "services:\n  web: {ports: [{name: grpc, prot: 80}]}\n  job: {depends_on: [wbe], image: }\n"
    assert problems(text) == [
        f"services.web {NO_HTTP}",
        "services.web.healthcheck is required",
        "services.web.ports[0].port is required",
        'services.web.ports[0].prot is not a known key; did you mean "port"?',
        'services.job.depends_on[0] "wbe" not found in services; did you mean "web"?',
        "services.job.image has no value: set a value or remove the key",
    ]


def services(**depends_on: object) -> str:
    return HEAD + "services: " + json.dumps({name: {"depends_on": on} for name, on in depends_on.items()})


@pytest.mark.parametrize(
    ("why", "text", "expected"),
    [
        ("a chain is no cycle", services(a=["b", "c"], b=["c"], c=[]), []),
        ("a diamond is no cycle", services(a=["b", "c"], b=["d"], c=["d"], d=[]), []),
        ("unknown", services(a=["b"]), ['services.a.depends_on[0] "b" not found in services']),
        ("unknown, as a map", services(a={"b": None}), ['services.a.depends_on.b "b" not found in services']),
        ("itself", services(a=["a"]), ['services.a.depends_on[0] "a" is the service itself']),
        ("twice", services(a=["b", "b"], b=[]), ['services.a.depends_on[1] "b" is a duplicate']),
        ("two", services(a=["b"], b={"a": {}}), ["services.a.depends_on is a dependency cycle: a -> b -> a"]),
        (
            "three, entered from outside",
            services(x=["b"], a=["b"], b=["c"], c=["a"]),
            ["services.b.depends_on is a dependency cycle: b -> c -> a -> b"],
        ),
        (
            "two cycles are two problems",
            services(a=["b"], b=["a"], c=["d"], d=["c", "a"]),
            [
                "services.a.depends_on is a dependency cycle: a -> b -> a",
                "services.c.depends_on is a dependency cycle: c -> d -> c",
            ],
        ),
        (
            "a cycle found on the way into another",
            services(a=["b", "d"], b=["c"], c=["b"], d=["a"]),
            [
                "services.a.depends_on is a dependency cycle: a -> d -> a",
                "services.b.depends_on is a dependency cycle: b -> c -> b",
            ],
        ),
    ],
)
def test_dependency_problems(problems: Problems, why: str, text: str, expected: list[str]) -> None:
    assert problems(text) == expected, why


def test_long_dependency_chain(problems: Problems) -> None:
    chain = {f"s{n}": [f"s{(n + 1) % 200}"] for n in range(200)}
    (message,) = problems(services(**chain))
    assert message.startswith("services.s0.depends_on is a dependency cycle: s0 -> s1 -> s2")
    assert message.endswith("-> s199 -> s0")


@pytest.mark.parametrize(
    ("other", "healthy"), [("{}", False), ("{readiness: {tcp: 1}}", True), ("{" + HTTP + ", healthcheck: {}}", True)]
)
def test_service_healthy_requires_a_probe(problems: Problems, other: str, healthy: bool) -> None:
    text = HEAD + f"services:\n  db: {other}\n  app: {{depends_on: {{db: {{condition: service_healthy}}}}}}"
    message = (
        "services.app.depends_on.db.condition service_healthy requires services.db to have a healthcheck or readiness"
    )
    assert problems(text) == ([] if healthy else [message])


INGRESS = HEAD + WEB + "ingress:\n  hosts: {hosts}\n  rules: {rules}\n"


def rule(host: str = "a.org", service: str = "web", port: str = "http", prefix: str | None = None) -> object:
    match = {"host": host} if prefix is None else {"host": host, "path_prefix": prefix}
    return {"match": match, "target": {"service": service, "port": port}}


@pytest.mark.parametrize(
    ("hosts", "rules", "expected"),
    [
        (["a.org"], [rule()], []),
        (["A.org"], [rule("a.ORG")], []),
        (["a.org"], [rule(), rule(prefix="/api")], []),
        (["a.org"], [rule(prefix="/"), rule()], ['rules[1].match "a.org/" already has a rule']),
        (["a.org"], [rule(prefix="/a"), rule(prefix="/a/")], ['rules[1].match "a.org/a/" already has a rule']),
        (["a.org"], [rule(prefix="/a"), rule(prefix="/a/b"), rule(prefix="/ab")], []),
        (["a.org"], [rule("b.net")], ['rules[0].match.host "b.net" not found in ingress.hosts']),
        (["a.org"], [rule("b.org")], ['rules[0].match.host "b.org" not found in ingress.hosts; did you mean "a.org"?']),
        (["a.org"], [rule(port="x")], ['rules[0].target.port "x" not found on service "web" (its ports: http)']),
        (["a.org"], [rule(port="80")], ['rules[0].target.port "80" not found on service "web" (its ports: http)']),
        (["a.org"], [rule(service="y")], ['rules[0].target.service "y" not found in services']),
        (["a.org", "A.ORG"], [rule()], ['hosts[1] "a.org" is a duplicate']),
        ([], [rule()], ["hosts needs at least one host"]),
        (["a.org"], [], ["rules needs at least one rule"]),
        (None, None, ["hosts is required", "rules is required"]),
        (["a.org"], [{}], ["rules[0].match is required", "rules[0].target is required"]),
        (
            ["a.org"],
            [{"match": None, "target": {"service": "web", "port": "http"}}],
            ["rules[0].match.host is required"],
        ),
        (["a.org"], [rule(port="")], ["rules[0].target.port must not be empty"]),
        (["a.org"], [rule(prefix="api")], ['rules[0].match.path_prefix must begin with /: "api"']),
        (["a.org"], [rule(prefix="/?b")], ['rules[0].match.path_prefix must be a path without a query, not "/?b"']),
    ],
)
def test_ingress_rules_name_hosts_services_and_ports(
    problems: Problems, hosts: object, rules: object, expected: list[str]
) -> None:
    text = INGRESS.replace("{hosts}", json.dumps(hosts)).replace("{rules}", json.dumps(rules))
    assert problems(text) == [f"ingress.{fact}" for fact in expected]


def test_service_without_ports_is_not_a_target(problems: Problems) -> None:
    text = INGRESS.replace("{hosts}", "[a.org]").replace("{rules}", json.dumps([rule(service="job")]))
    text = text.replace("ingress:", "  job:\ningress:")
    assert problems(text) == ['ingress.rules[0].target.port "http" not found on service "job" (it has no ports)']


@pytest.mark.parametrize(
    ("tls", "redirect"),
    [("", True), ("  tls: {mode: auto}\n", True), ("  tls: {mode: off}\n", False), ("  tls: {mode: manual}\n", False)],
)
def test_http_is_redirected_with_automatic_certificates(read: Parse, tls: str, redirect: bool) -> None:
    text = INGRESS.replace("{hosts}", "[A.Org]").replace("{rules}", json.dumps([rule()])) + tls
    ingress = read(text).resolve("production").ingress
    assert ingress is not None
    assert ingress.redirect_http is redirect
    assert list(ingress.hosts) == ["a.org"]
