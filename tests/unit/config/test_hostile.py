"""Malicious and arbitrary files: accepted or rejected with ConfigError, never another error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devopsellence.config import Config, ConfigError, parse, to_yaml
from devopsellence.config.export import to_document
from devopsellence.config.schema import RootSection
from tests.unit.config.conftest import HEAD, PATH, WEB

quick = settings(max_examples=60)

FIELDS = [
    *RootSection.model_fields,
    *("web", "redis", "env", "args", "command", "image", "ports", "name", "port", "healthcheck", "path", "volumes"),
    *("source", "target", "readiness", "tcp", "depends_on", "condition", "service_healthy", "resources", "cpus"),
    *("memory", "release", "service", "hosts", "rules", "match", "host", "http", "path_prefix", "tls", "mode", "off"),
    *("staging", "secret_refs", "secret", "<<", "[key]", "(list)"),
]
VALUES = ["1", "0", "-1", "80", "5s", "25%", "512m", "/up", "a.example.com", "true", "~", "", "ü"]
WORDS = st.sampled_from([*FIELDS, *VALUES])
SCALARS = st.one_of(WORDS, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
TREES = st.recursive(
    SCALARS,
    lambda below: st.one_of(
        st.lists(below, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=5)), below, max_size=5)
    ),
    max_leaves=40,
)


def outcome(text: str) -> Config | None:
    """Parse, resolve and export; None for a ConfigError, the only allowed error."""
    try:
        config = parse(text, PATH)
        for environment in (config.default_environment, *config.environments[:1]):
            hold_together(config, environment)
    except ConfigError as error:
        presentable(error)
        return None
    return config


def hold_together(config: Config, environment: str) -> None:
    document = to_document(config.resolve(environment))
    assert to_document(parse(to_yaml(document), PATH).resolve(environment)) == document


def presentable(error: ConfigError) -> None:
    assert error.findings
    for finding in error.findings:
        assert finding.line >= 1
        assert finding.column >= 1
        assert finding.message.isprintable(), finding.message
    assert [f.line for f in error.findings] == sorted(f.line for f in error.findings)


@quick
@given(st.text(max_size=200))
@example("%")
@example("? ")
@example("%YAML 1")
@example("%TAG")
@example("- - - ? : -")
@example("&")
@example("*")
@example("!<")
@example("|9\n x")
@example("'")
@example('"\\x')
@example('"\\U00110000"')
@example("a: !!timestamp 2020-01-01")
@example("\u2028a: b\x85- c")
def test_arbitrary_text(text: str) -> None:
    outcome(text)


@quick
@given(st.text(alphabet="abc:-?,[]{}#&*!|>'\"%@`<~ \n\t01", max_size=80))
def test_arbitrary_yaml_punctuation(text: str) -> None:
    outcome(text)


@quick
@given(TREES)
def test_arbitrary_structures(tree: Any) -> None:
    outcome(json.dumps(tree))


@quick
@given(st.dictionaries(st.sampled_from(list(RootSection.model_fields)), TREES, max_size=6))
def test_arbitrary_values_in_the_files_own_fields(tree: dict[str, Any]) -> None:
    sound = {"schema_version": 1, "organization": "a", "project": "b"}
    outcome(json.dumps({**sound, **tree}))


@quick
@given(st.dictionaries(st.sampled_from(["web", "redis", "a b"]), st.dictionaries(WORDS, TREES, max_size=6), max_size=3))
def test_arbitrary_services_and_overlays(services: dict[str, Any]) -> None:
    overlays = json.dumps({"staging": {"services": services}})
    outcome(HEAD + f"services: {json.dumps(services)}\nenvironments: {overlays}")
    outcome(HEAD + WEB + f"environments: {overlays}")


@quick
@given(st.text(max_size=30))
@example("\x85")
@example("a\u2028b\u2029")
def test_accepted_variable_values_are_unchanged(value: str) -> None:
    config = outcome(HEAD + WEB + f"    env: {json.dumps({'A': value})}")
    if config is not None:
        assert config.resolve("production").services[0].env["A"] == value


def services(count: int, waits_for: int) -> str:
    names = [f"service-{n}" for n in range(count)]
    return HEAD + "services: " + json.dumps({name: {"depends_on": names[:waits_for]} for name in names})


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a very long key", "k" * 500_000 + ": x"),
        ("ten thousand unknown keys", "\n".join(f"k{n}: x" for n in range(10_000))),
        ("five thousand bad services", "services:\n" + "\n".join(f"  k{n}: {{x: y}}" for n in range(5_000))),
        ("five thousand bad environments", "environments:\n" + "\n".join(f"  k{n}: {{x: y}}" for n in range(5_000))),
        ("unknown services that are like known ones", services(100, 100).replace('["service-', '["services-')),
        ("cycles of all shapes", services(60, 60)),
    ],
)
def test_malicious_files_are_rejected_quickly(what: str, text: str) -> None:
    assert outcome(text) is None, what


def test_only_the_allowed_number_of_environments_is_checked() -> None:
    environments = "".join(f"  e{number}: {{services: {{web: {{imag: x}}}}}}\n" for number in range(2000))
    with pytest.raises(ConfigError) as caught:
        parse(f"{HEAD}{WEB}environments:\n{environments}", PATH)
    messages = [finding.message for finding in caught.value.findings]
    assert "environments has 2000 entries; at most 100 are accepted" in messages
    assert not any("e1500" in message for message in messages)
