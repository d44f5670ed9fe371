"""Checks across sections: kinds, references, duplicates, cycles."""

from __future__ import annotations

import json

import pytest

from devopsellence import age
from devopsellence.config import scalars
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


JOB = "{image: redis}"


@pytest.mark.parametrize(
    ("why", "text", "expected"),
    [
        (
            "services are found by name",
            f"services: {{Redis: {JOB}, redis: {JOB}}}",
            ['services.redis "redis" differs from "Redis" in case only, and DNS does not tell them apart: rename one'],
        ),
        (
            "tasks run in containers",
            f"services: {{a: {JOB}}}\ntasks: {{Run: {{service: a, args: [x]}}, RUN: {{service: a, args: [x]}}}}",
            [
                'tasks.RUN "RUN" differs from "Run" in case only, '
                "and the names of their containers do not tell them apart: rename one"
            ],
        ),
        (
            "environments run in containers",
            f"services: {{a: {JOB}}}\nenvironments: {{qa: {{}}, QA: {{}}}}",
            [
                'environments.QA "QA" differs from "qa" in case only, '
                "and the names of their containers do not tell them apart: rename one"
            ],
        ),
        (
            "an overlay that is meant for the default",
            f"default_environment: Live\nservices: {{a: {JOB}}}\nenvironments: {{live: {{}}}}",
            [
                'default_environment "Live" differs from "live" (environments.live) in case only, '
                "and they are two environments: write both alike"
            ],
        ),
    ],
)
def test_names_that_differ_in_case_only_are_refused(
    problems: Problems, why: str, text: str, expected: list[str]
) -> None:
    assert problems(HEAD + text + "\n") == expected, why


def volumes(*sources: str) -> str:
    return json.dumps({"volumes": [{"source": source, "target": f"/{at}"} for at, source in enumerate(sources)]})


def test_volumes_that_differ_in_case_only_are_refused_across_services(problems: Problems) -> None:
    text = HEAD + f"services:\n  a: {volumes('Data', 'logs')}\n  b: {volumes('logs', 'data', 'Data')}\n"
    assert problems(text) == [
        'services.b.volumes[1].source "data" differs from "Data" (services.a.volumes[0].source) in case only, '
        "and Docker would use one volume for both: write both alike, or rename one"
    ]


def test_volume_of_an_overlay_that_differs_in_case_only_is_refused(problems: Problems) -> None:
    services = f"services:\n  a: {volumes('data')}\n  b: {volumes('data')}\n"
    (message,) = problems(HEAD + services + f"environments: {{qa: {{services: {{b: {volumes('DATA')}}}}}}}\n")
    assert message.startswith('environments.qa: services.b.volumes[0].source "DATA" differs from "data"')


def test_names_in_other_places_may_differ_in_case_only(problems: Problems) -> None:
    service = "{env: {http_proxy: a, HTTP_PROXY: b}, ports: [{name: grpc, port: 1}, {name: GRPC, port: 2}]}"
    assert problems(HEAD + f"services: {{a: {service}}}\ntasks: {{A: {{service: a, args: [x]}}}}\n") == []


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        *((name, "means the container itself") for name in ("localhost", "LocalHost", "db.localhost", "ip6-loopback")),
        *((f'"{name}"', "is read as an IP address") for name in ("127.0.0.1", "42", "10.1", "0x7f.1", "017")),
        ("redis.", "is not a name in DNS"),
    ],
)
def test_service_name_with_another_meaning_is_refused(problems: Problems, name: str, fact: str) -> None:
    (message,) = problems(HEAD + f"services: {{{name}: {JOB}}}\n")
    assert fact in message


@pytest.mark.parametrize("name", ["localhost2", "local.host", "4c", "10.x", "redis-7.2", "1.2.3.4.5"])
def test_service_name_may_resemble_an_address(problems: Problems, name: str) -> None:
    assert problems(HEAD + f'services: {{"{name}": {JOB}}}\n') == []


class TestVariableSize:
    """Linux takes ``NAME=value`` of at most ``MAX_TEXT`` bytes; a word of a command has no name."""

    @pytest.mark.parametrize(("name", "letter"), [("A", "x"), ("LONG_NAME", "x"), ("Ä", "ü")])
    def test_longest_variable_fits_and_one_more_letter_does_not(
        self, problems: Problems, name: str, letter: str
    ) -> None:
        room = scalars.MAX_TEXT - len(f"{name}=".encode())
        value = letter * (room // len(letter.encode()))
        assert problems(HEAD + f"services: {{a: {{env: {{{name}: {value}}}}}}}\n") == []
        whole = len(f"{name}={value}{letter}".encode())
        (message,) = problems(HEAD + f"services: {{a: {{env: {{{name}: {value}{letter}}}}}}}\n")
        assert f"has {whole} bytes with its name and =, and Linux passes at most 131071 to a program" in message

    def test_variables_of_tasks_and_overlays_count(self, problems: Problems) -> None:
        env = "{env: {A: " + "x" * (scalars.MAX_TEXT - 1) + "}}"
        tasks = "tasks: {run: {service: a, args: [x], " + env[1:] + "}\n"
        text = HEAD + "services: {a: {}}\n" + tasks + "environments: {qa: {services: {a: " + env + "}}}\n"
        assert [message.partition(" has ")[0] for message in problems(text)] == [
            "tasks.run.env.A",
            "environments.qa: services.a.env.A",
        ]

    def test_value_too_long_by_itself_is_one_problem(self, problems: Problems) -> None:
        text = HEAD + "services: {a: {env: {A: " + "x" * (scalars.MAX_TEXT + 1) + "}}}\n"
        assert problems(text) == [
            "services.a.env.A is longer than 131071 bytes, the most that Linux passes to a program"
        ]

    def test_longest_secret_fits_under_the_longest_name(self, problems: Problems) -> None:
        assert scalars.MAX_VARIABLE_NAME + 1 + age.MAX_BYTES <= scalars.MAX_TEXT
        name = "x" * (scalars.MAX_VARIABLE_NAME + 1)
        (message,) = problems(HEAD + f"services: {{a: {{secret_refs: [{{name: {name}, secret: s}}]}}}}\n")
        assert message == (
            "services.a.secret_refs[0].name is longer than 32768 bytes, the limit for the name of a variable"
        )


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


def limits(deadline: str | None = None, probe: str = "readiness", **written: str) -> str:
    check = json.dumps({"tcp": 80, **written}) if probe == "readiness" else json.dumps(written)
    kind = "ports: [{name: http, port: 80}], " if probe == "healthcheck" else ""
    deploy = f"deploy: {{progress_deadline: {deadline}}}" if deadline else ""
    return HEAD + f"services: {{db: {{image: redis, {kind}{probe}: {check}}}}}\n{deploy}"


START = "a container that is still allowed to start fails the rollout"
TIMEOUT = "a rollout fails before a single check has timed out"
FIX = "shorten it, or set a longer deploy.progress_deadline"


@pytest.mark.parametrize(
    ("why", "text", "expected"),
    [
        ("both fit", limits("15s", start_period="15s", timeout="15s"), []),
        ("defaults fit any deadline", limits("1s", probe="healthcheck"), []),
        (
            "a readiness with a long start",
            limits("15s", start_period="1m"),
            [f"services.db.readiness.start_period is 1m, longer than deploy.progress_deadline (15s): {START}; {FIX}"],
        ),
        (
            "a health check with a long start, and the default deadline",
            limits(probe="healthcheck", start_period="601s"),
            [
                "services.db.healthcheck.start_period is 10m1s, longer than deploy.progress_deadline (10m): "
                f"{START}; {FIX}"
            ],
        ),
        (
            "a long check",
            limits("5s", timeout="6s"),
            [f"services.db.readiness.timeout is 6s, longer than deploy.progress_deadline (5s): {TIMEOUT}; {FIX}"],
        ),
        ("values that are invalid are reported once", limits("soon", start_period="1h"), None),
    ],
)
def test_probe_is_not_allowed_to_take_longer_than_a_rollout_waits(
    problems: Problems, why: str, text: str, expected: list[str] | None
) -> None:
    found = problems(text)
    if expected is None:
        (problem,) = found
        assert problem.startswith("deploy.progress_deadline must be a duration"), why
    else:
        assert found == expected, why


def test_long_start_in_an_overlay_is_named_with_its_environment(problems: Problems) -> None:
    overlay = "environments: {staging: {services: {db: {readiness: {start_period: 1h}}}}}"
    (problem,) = problems(limits() + overlay)
    assert problem.startswith("environments.staging: services.db.readiness.start_period is 1h, longer than")


def test_rule_leads_to_no_service_that_is_to_complete(problems: Problems) -> None:
    job = "job: {image: redis, ports: [{name: http, port: 80}], healthcheck: {}}"
    waits = "web: {ports: [{name: http, port: 80}], healthcheck: {}, depends_on: {job: {condition: CONDITION}}}"
    text = (
        HEAD
        + f"services:\n  {job}\n  {waits}\n"
        + ("ingress: {hosts: [a.example], rules: [{match: {host: a.example}, target: {service: job, port: http}}]}")
    )
    assert problems(text.replace("CONDITION", "service_healthy")) == []
    assert problems(text.replace("CONDITION", "service_completed_successfully")) == [
        'ingress.rules[0].target.service "job" serves no requests, because services.web waits for it to complete'
    ]
