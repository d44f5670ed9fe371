"""Overlays of environments: merging, replacing, rejected entries, positions of findings."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.config import ConfigError, InvalidName
from devopsellence.config.export import to_document
from tests.unit.config.conftest import HEAD, Parse, Problems

BASE = (
    HEAD
    + """\
services:
  web:
    image: app:1
    command: [serve]
    args: [--fast]
    env: {A: base, B: base}
    secret_refs: [{name: S, secret: S}]
    ports: [{name: http, port: 80}]
    healthcheck: {path: /up, retries: 9}
    volumes: [{source: data, target: /data}]
    depends_on: [redis]
    resources: {cpus: 2, memory: 1g}
  redis:
    readiness: {command: [redis-cli, ping], interval: 1s}
tasks:
  release: {service: web, command: [migrate], env: {A: base}}
ingress:
  hosts: [a.example.com]
  rules: [{match: {host: a.example.com}, target: {service: web, port: http}}]
  tls: {mode: off}
"""
)


def staging(read: Parse, overlay: str) -> dict[str, Any]:
    """Resolve staging as a document."""
    config = read(f"{BASE}environments:\n  staging: {overlay}\n")
    assert config.environments == ("staging",)
    return to_document(config.resolve("staging"))


def test_unnamed_environment_uses_the_file_unchanged(read: Parse) -> None:
    config = read(f"{BASE}environments:\n  staging: {{services: {{web: {{image: app:2}}}}}}\n")
    assert to_document(config.resolve("production")) == to_document(read(BASE).resolve("production"))
    assert to_document(config.resolve("other"))["services"] == to_document(read(BASE).resolve("other"))["services"]


@pytest.mark.parametrize(
    "overlay", ["", "{}", "{services: , tasks: , ingress: }", "{services: {web: {env: , image: app:1}}}"]
)
def test_empty_overlay_changes_nothing(read: Parse, overlay: str) -> None:
    assert staging(read, overlay) == to_document(read(BASE).resolve("staging"))


@pytest.mark.parametrize(
    ("why", "overlay", "path", "expected"),
    [
        ("env merges by key", "{env: {B: own, C: own}}", "env", {"A": "base", "B": "own", "C": "own"}),
        ("a scalar replaces", "{image: app:2}", "image", "app:2"),
        ("a list replaces as a whole", "{args: [--slow]}", "args", ["--slow"]),
        ("and leaves its neighbours", "{args: [--slow]}", "command", ["serve"]),
        ("an empty list empties", "{volumes: []}", "volumes", None),
        ("secrets replace", "{secret_refs: [{name: T, secret: T}]}", "secret_refs", [{"name": "T", "secret": "T"}]),
        ("a health check merges", "{healthcheck: {path: /x}}", "healthcheck.path", "/x"),
        ("field by field", "{healthcheck: {path: /x}}", "healthcheck.retries", 9),
        ("ports replace, and defaults follow", "{ports: [{name: http, port: 81}]}", "healthcheck.port", 81),
        ("resources merge", "{resources: {memory: 2g}}", "resources", {"cpus": 2, "memory": "2048m"}),
        (
            "a map in place of a list replaces",
            "{depends_on: {redis: {condition: service_healthy}}}",
            "depends_on",
            {"redis": {"condition": "service_healthy"}},
        ),
    ],
)
def test_service_is_overlaid(read: Parse, why: str, overlay: str, path: str, expected: object) -> None:
    value: Any = staging(read, f"{{services: {{web: {overlay}}}}}")["services"]["web"]
    for step in path.split("."):
        value = value.get(step)
    assert value == expected, why


def test_other_probe_kind_replaces_probe_but_keeps_timing(read: Parse) -> None:
    readiness = staging(read, "{services: {redis: {readiness: {tcp: 6379}}}}")["services"]["redis"]["readiness"]
    assert readiness == {"tcp": 6379, "interval": "1s", "timeout": "2s", "retries": 3, "start_period": "1s"}


def test_tasks_merge_and_may_be_added(read: Parse) -> None:
    tasks = staging(read, "{tasks: {release: {env: {B: own}}, seed: {service: web, args: [seed]}}}")["tasks"]
    assert tasks == {
        "release": {"service": "web", "command": ["migrate"], "env": {"A": "base", "B": "own"}},
        "seed": {"service": "web", "args": ["seed"]},
    }


def test_ingress_hosts_and_rules_replace_and_the_rest_stays(read: Parse) -> None:
    rules = "[{match: {host: b.example.com}, target: {service: web, port: http}}]"
    ingress = staging(read, f"{{ingress: {{hosts: [b.example.com], rules: {rules}}}}}")["ingress"]
    assert ingress["hosts"] == ["b.example.com"]
    assert ingress["rules"][0]["match"]["host"] == "b.example.com"
    assert ingress["tls"] == {"mode": "off"}


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        (
            "{services: {web: {ports: []}}}",
            [
                "environments.staging: ingress.rules[0].target.port "
                '"http" not found on service "web" (it has no ports)',
                "environments.staging: services.web must expose an http port (an entry of ports with name: http)",
            ],
        ),
        (
            "{services: {wbe: {image: a}}}",
            [
                "environments.staging.services.wbe not found in services, and an overlay cannot add one; "
                'did you mean "web"?'
            ],
        ),
        (
            "{build: {context: x}, organization: y}",
            [
                f"environments.staging.{field} cannot differ between environments; "
                "allowed in an overlay: services, tasks, ingress"
                for field in ("build", "organization")
            ],
        ),
        (
            "{services: {web: {imgae: a}}}",
            ['environments.staging: services.web.imgae is not a known key; did you mean "image"?'],
        ),
        (
            "{services: {web: {env: {A: true}}}}",
            ['environments.staging: services.web.env.A must be text, not a boolean: write "true" with quotes'],
        ),
        ("{services: [web]}", ["environments.staging: services must be a map of services, not a list"]),
        ("{services: {web: x}}", ["environments.staging: services.web must be a map, not text"]),
        (
            "{services: {redis: {depends_on: [web]}}}",
            ["environments.staging: services.web.depends_on is a dependency cycle: web -> redis -> web"],
        ),
        (
            "{ingress: {hosts: [b.example.com]}}",
            [
                'environments.staging: ingress.rules[0].match.host "a.example.com" not found in ingress.hosts; '
                'did you mean "b.example.com"?'
            ],
        ),
    ],
)
def test_overlay_is_validated_as_merged_document(problems: Problems, overlay: str, expected: list[str]) -> None:
    assert problems(f"{BASE}environments:\n  staging: {overlay}\n") == expected


def test_findings_have_positions_in_the_overlay(places: Problems) -> None:
    text = """\
        schema_version: 1
        organization: acme
        project: shop
        services:
          web:
            ports: [{name: http, port: 80}]
            healthcheck: {}
        environments:
          staging:
            services:
              web:
                ports:
                  - name: grpc
                    port: 0
          production:
            ingress:
              hosts: [a.example.com]
        """
    assert [line.split(" must")[0] for line in places(text)] == [
        "11:7: environments.staging: services.web",
        "14:19: environments.staging: services.web.ports[0].port",
        "16:5: environments.production: ingress.rules is required",
    ]


def test_base_problem_is_reported_once(problems: Problems) -> None:
    text = HEAD + "services: {web: {imgae: x}}\nenvironments: {a: {services: {web: {env: {X: y}}}}, b: , c: {}}"
    assert problems(text) == [
        "services.web must expose an http port (an entry of ports with name: http)",
        "services.web.healthcheck is required",
        'services.web.imgae is not a known key; did you mean "image"?',
    ]


def test_repeated_mistake_in_overlay_is_reported_again(problems: Problems) -> None:
    text = HEAD + "services: {a: {image: }}\nenvironments: {x: {services: {a: {env: {X: true}, args: [~]}}}}"
    text = text.replace("{image: }", "{env: {X: true}, args: [~]}")
    assert [message.split(" ")[0:2] for message in problems(text)] == [
        ["services.a.env.X", "must"],
        ["services.a.args[0]", "has"],
        ["environments.x:", "services.a.env.X"],
        ["environments.x:", "services.a.args[0]"],
    ]


ONLY_OVERLAYS_HAVE_HOSTS = """\
schema_version: 1
organization: acme
project: shop
services:
  web: {ports: [{name: http, port: 80}], healthcheck: {}}
ingress:
  tls: {mode: auto, email: ops@example.com}
environments:
  production:
    ingress:
      hosts: [a.example.com]
      rules: [{match: {host: a.example.com}, target: {service: web, port: http}}]
"""


def test_base_may_omit_hosts_and_rules(read: Parse) -> None:
    config = read(ONLY_OVERLAYS_HAVE_HOSTS)
    assert to_document(config.resolve("production"))["ingress"]["tls"]["email"] == "ops@example.com"
    with pytest.raises(ConfigError) as caught:
        config.resolve("staging")
    assert [finding.message for finding in caught.value.findings] == [
        "ingress.hosts is required",
        "ingress.rules is required",
    ]


def test_default_environment_without_overlay_needs_hosts_and_rules(problems: Problems) -> None:
    text = ONLY_OVERLAYS_HAVE_HOSTS.replace("project:", "default_environment: staging\nproject:")
    assert problems(text) == ["ingress.hosts is required", "ingress.rules is required"]


def test_overlay_without_hosts_and_rules_is_reported(problems: Problems) -> None:
    assert problems(ONLY_OVERLAYS_HAVE_HOSTS + "  staging: {ingress: {redirect_http: false}}\n") == [
        "environments.staging: ingress.hosts is required",
        "environments.staging: ingress.rules is required",
    ]


@pytest.mark.parametrize("name", ["a b", "", "a/b", "-x"])
def test_environment_has_a_name(read: Parse, name: str) -> None:
    with pytest.raises(InvalidName):
        read(BASE).resolve(name)


def test_overlay_may_say_how_many_replicas(read: Parse) -> None:
    text = (
        HEAD + "services: {job: , queue: {replicas: 2}}\nenvironments: {staging: {services: {queue: {replicas: 1}}}}\n"
    )
    config = read(text)
    found = {
        name: [service.replicas for service in config.resolve(name).services] for name in ("production", "staging")
    }
    assert found == {"production": [0, 2], "staging": [0, 1]}
