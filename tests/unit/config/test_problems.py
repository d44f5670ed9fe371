"""Every finding has its line and column, and they come in the order of the file."""

from __future__ import annotations

from devopsellence.config import ConfigError, ConfigFinding
from devopsellence.config.problems import dotted, in_order, quoted
from tests.unit.config.conftest import HEAD, WEB, Problems


def test_value_is_at_the_value_and_an_unknown_key_at_the_key(places: Problems) -> None:
    text = """\
        schema_version: 1
        organization:   a b
        projcet: shop
        services:
          web:
            ports:
              - name: http
                port: 99999
            env:
              RAILS_ENV: true
              "A B": c
            args: redis
            healthcheck: {}
        """
    assert [line.split(" is ")[0].split(" must ")[0] for line in places(text)] == [
        "1:1: project",
        '2:17: organization "a b"',
        "3:1: projcet",
        "8:15: services.web.ports[0].port",
        "10:18: services.web.env.RAILS_ENV",
        '11:7: services.web.env."A B" "A B"',
        "12:11: services.web.args",
    ]


def test_missing_key_is_reported_at_its_parent(places: Problems) -> None:
    text = """\
        # The file begins with a comment.
        organization: acme
        schema_version: 1
        project: shop
        services:
          web:
            ports:
              - port: 80
              -
                name: http
        tasks:
          release: {command: [a]}
        """
    assert places(text) == [
        "6:3: services.web.healthcheck is required",
        "8:9: services.web.ports[0].name is required",
        "10:9: services.web.ports[1].port is required",
        "12:3: tasks.release.service is required",
    ]


def test_empty_value_is_reported_at_its_key(places: Problems) -> None:
    assert places(HEAD + WEB + "build:\n  context:\n\n\n") == [
        "9:3: build.context has no value: set a value or remove the key"
    ]


def test_map_or_list_is_reported_at_its_key(places: Problems) -> None:
    text = (
        HEAD
        + "services:\n  a:\n    depends_on:\n      - b\n  b:\n    depends_on: [a]\n"
        + "    readiness:\n      port: 1\n      tcp: 1\n"
    )
    assert places(text) == [
        "6:5: services.a.depends_on is a dependency cycle: a -> b -> a",
        "10:5: services.b.readiness must have exactly one of command, tcp, or path (with or without port)",
    ]


def test_aliased_value_is_reported_at_its_definition(places: Problems) -> None:
    text = HEAD + "services:\n  a:\n    env: &env\n      X: true\n  b:\n    env: *env\n"
    assert places(text) == [
        '7:10: services.a.env.X must be text, not a boolean: write "true" with quotes',
        '7:10: services.b.env.X must be text, not a boolean: write "true" with quotes',
    ]


def test_duplicate_key_is_reported_at_the_second(places: Problems) -> None:
    assert places(HEAD + "services:\n  a: {}\n  a: {}\n  b: {x: y}\nproject: other\n") == [
        "6:3: services.a is a duplicate key, first on line 5; remove one",
        "7:7: services.b.x is not a known key; known keys: image, command, args, env, secret_refs, ports, healthcheck, "
        "volumes, readiness, depends_on, resources, stop_grace_period, replicas, "
        "security",
        "8:1: project is a duplicate key, first on line 3; remove one",
    ]


def test_findings_have_compiler_format() -> None:
    finding = ConfigFinding("services.web", "services.web is wrong", "devopsellence.yml", 12, 5)
    assert str(finding) == "devopsellence.yml:12:5: services.web is wrong"
    assert str(ConfigError([finding, finding])) == f"{finding}\n{finding}"


def test_findings_beyond_a_hundred_are_counted() -> None:
    findings = [ConfigFinding("a", f"m{n}", "f", n, 1) for n in range(150, 0, -1)]
    ordered = in_order(findings)
    assert [finding.line for finding in ordered[:100]] == list(range(1, 101))
    assert str(ordered[100]) == "f:101:1: and 50 more problems"
    assert len(ordered) == 101


def test_paths_and_words_are_escaped_for_terminals() -> None:
    assert dotted(("services", "web.v2", "ports", 0, "port")) == 'services."web.v2".ports[0].port'
    assert quoted('a"b\x1b[2J\u202e') == '"a\\"b\\x1b[2J\\u202e"'
    assert quoted("x" * 100) == '"' + "x" * 60 + '…"'
