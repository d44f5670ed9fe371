"""Hosts in the output of deploy, rollback and ``node attach``; ``ingress set`` in the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from devopsellence.api.v1.stored_pb2 import Environment, Release
from devopsellence.store.keys import EnvironmentRef
from tests.integration.cli.ingress_records import ingress, released, serving, write_agent_records
from tests.integration.cli.rollout_writer import RolloutWriter
from tests.integration.cli.test_deploy import pretending
from tests.support.cli import REF, Cli
from tests.support.images import IMAGE, small_image
from tests.support.name_server import NameServer

HOST = "app.example.com"
OTHER = EnvironmentRef("acme", "Blog", "production")
CONFIG = f"""\
schema_version: 1
organization: acme
project: Shop
services:
  web:  # the shop
    image: {IMAGE}
    command: [/bin/httpd, -f, -p, "3000"]
    ports: [{{name: http, port: 3000}}]
    healthcheck: {{path: /up}}
"""


@pytest.fixture
def ready(cli: Cli) -> Cli:
    """Configuration with an ingress written by the command, and an attached node."""
    small_image()
    (cli.folder / "devopsellence.yml").write_text(CONFIG)
    cli.ok("ingress", "set", "--host", HOST, "--tls", "off")
    cli.ok("node", "register", "n1", "--address", "127.0.0.11")
    cli.ok("node", "attach", "n1")
    return cli


@pytest.fixture
def names(ready: Cli) -> Iterator[NameServer]:
    with NameServer() as server:
        ready.environ["DEVOPSELLENCE_DNS"] = server.address
        yield server


def deployed(cli: Cli) -> str:
    """Run a deploy without following; return the warnings."""
    result = cli.run("deploy", "--detach")
    assert result.exit_code == 0, result.output
    # No agent is there; this is not what these tests are about.
    return "".join(line for line in result.stderr.splitlines() if "has no heartbeat" not in line)


def test_ingress_set_writes_configuration_once(cli: Cli) -> None:
    path = cli.folder / "devopsellence.yml"
    path.write_text(CONFIG)
    dry = cli.ok("ingress", "set", "--host", HOST, "--dry-run")
    assert "+    - app.example.com" in dry
    assert path.read_text() == CONFIG
    document = cli.json("ingress", "set", "--host", "App.Example.com", "--drain-timeout", "1m")
    assert (document["changed"], document["environment"]) == (True, None)
    assert path.read_text().startswith(CONFIG)
    before = path.read_text()
    assert "No change" in cli.ok("ingress", "set", "--host", HOST, "--drain-timeout", "1m")
    assert path.read_text() == before
    cli.ok("ingress", "set", "--env", "staging", "--host", "staging.example.com", "--tls", "off")
    assert path.read_text().startswith(before)
    staging = cli.json("config", "resolve", "--env", "staging")["config"]["ingress"]
    assert (staging["hosts"], staging["tls"]) == (["staging.example.com"], {"mode": "off"})
    assert staging["drain_timeout"] == "1m"
    for wrong, code in (["--host", "a_b"], "config_invalid"), ([], "usage"):
        before = path.read_text()
        error = cli.error("ingress", "set", *wrong)
        assert (error["code"], error["exit_code"]) == (code, 2)
        assert path.read_text() == before


def test_release_records_ingress_and_dry_run_shows_changes(ready: Cli, names: NameServer) -> None:
    names.names[HOST] = ["127.0.0.11"]
    shown = ready.json("deploy", "--dry-run")["ingress"]
    assert (shown["hosts"], shown["nodes"]) == ([HOST], ["n1"])
    assert f"+ host {HOST}" in shown["changes"]
    assert deployed(ready) == ""
    release = ready.read(lambda etcd: etcd.keys.release(REF, 1), Release)
    assert release is not None
    assert (list(release.ingress.hosts), release.ingress.drain_timeout.seconds) == ([HOST], 30)
    assert ready.json("deploy", "--dry-run")["ingress"]["changes"] == []
    ready.ok("ingress", "set", "--drain-timeout", "5s", "--path", "/shop")
    text = ready.ok("deploy", "--dry-run")
    assert f"ingress: {HOST} on n1\n  + {HOST}/shop → web:http\n  ~ drain_timeout: 30s → 5s\n" in text


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, f"DNS of {HOST}: no such name (after a fix, run devopsellence ingress check"),
        ({HOST: ["127.0.0.99"]}, f"DNS of {HOST}: points to 127.0.0.99; 127.0.0.99 is not the address of a node"),
        # Behind a load balancer it may be right.
        ({HOST: ["8.8.1.1"]}, ""),
    ],
    ids=["missing", "elsewhere", "maybe"],
)
def test_hosts_pointing_elsewhere_cause_warnings(
    ready: Cli, names: NameServer, known: dict[str, list[str]], words: str
) -> None:
    names.names |= known
    said = deployed(ready)
    assert words in said
    assert bool(words) == bool(said)


def test_unreachable_resolver_does_not_delay_deploy(ready: Cli) -> None:
    ready.environ["DEVOPSELLENCE_DNS"] = "127.0.0.1:1"
    assert deployed(ready) == ""
    ready.environ["DEVOPSELLENCE_DNS"] = "nonsense"
    assert "'nonsense' is not a DNS resolver" in deployed(ready)


def test_unserved_or_uncertifiable_hosts_cause_warnings(ready: Cli, names: NameServer) -> None:
    ready.ok("ingress", "set", "--host", "shop.internal", "--tls", "auto")
    names.names["shop.internal"] = ["127.0.0.11"]
    assert "no public authority issues a certificate for shop.internal" in deployed(ready)


def test_host_of_another_environment_on_node_is_refused(ready: Cli, names: NameServer) -> None:
    released(ready, ingress("blog.example.com", HOST), ["n1", "n9"], OTHER)
    for command in (["deploy"], ["deploy", "--dry-run"]):
        error = ready.error(*command)
        assert (error["code"], error["exit_code"]) == ("ingress_conflict", 1)
        assert all(fact in error["message"] for fact in (HOST, str(OTHER), "n1"))
    environment = ready.read(lambda etcd: etcd.keys.environment(REF), Environment)
    assert environment is not None
    assert environment.latest_release == 0
    # Elsewhere it disturbs nobody.
    released(ready, ingress(HOST), ["n9"], OTHER)
    names.names[HOST] = ["127.0.0.11"]
    assert deployed(ready) == ""
    # And comes no nearer.
    error = ready.error("node", "attach", "n1", "--env", str(OTHER))
    assert error["code"] == "ingress_conflict"
    assert all(fact in error["message"] for fact in (HOST, str(REF)))
    environment = ready.read(lambda etcd: etcd.keys.environment(OTHER), Environment)
    assert environment is not None
    assert list(environment.nodes) == ["n9"]


def test_rollback_refuses_host_taken_by_another_environment(ready: Cli, names: NameServer) -> None:
    names.names[HOST] = names.names["new.example.com"] = ["127.0.0.11"]
    deployed(ready)
    ready.ok("ingress", "set", "--host", "new.example.com")
    deployed(ready)
    released(ready, ingress(HOST), ["n1"], OTHER)
    assert ready.error("release", "rollback", "1")["code"] == "ingress_conflict"


def test_deploy_ends_with_urls(ready: Cli, names: NameServer) -> None:
    names.names[HOST] = ["127.0.0.11"]

    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(1)
        await pretender.settle()

    write_agent_records(ready, "n1", serving(80))
    with pretending(ready, script):
        result = ready.run("deploy", "-o", "json")
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["event"], result.exit_code) == ("result", 0)
    assert last["ingress"]["hosts"][0]["url"] == f"http://{HOST}/"
