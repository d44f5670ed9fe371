"""Records of hostile nodes in a real etcd: no command prints their control characters, in text or JSON."""

from __future__ import annotations

import json
from typing import Final

import pytest

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Environment,
    Event,
    Heartbeat,
    Node,
    Release,
    Rollout,
    Secret,
)
from devopsellence.store.codec import encode
from tests.integration.cli.test_terminal import Terminal
from tests.support.cli import REF, Cli
from tests.support.hostile import TEXT, fill, unsafe

COMMANDS: Final = (
    "status",
    "status --all",
    "events",
    "node list",
    "node label list",
    "release list",
    "release show 1",
    "secret list",
    "env list",
    "ingress show",
    "ingress cert list",
    "task list",
    "exec web -- true",
    "logs web",
    "node detach n1 -y",
    "doctor",
)


@pytest.fixture
def hostile(shop: Cli) -> Cli:
    """Environment whose node has written whatever it can, also under keys of its own choice."""
    shop.ok("node", "register", "n1", "--address", "10.0.0.1")
    shop.ok("node", "attach", "n1")
    environment = shop.read(lambda etcd: etcd.keys.environment(REF), Environment)
    assert environment is not None
    environment.latest_release = 1
    shop.write(lambda etcd: etcd.keys.environment(REF), environment)
    node = shop.read(lambda etcd: etcd.keys.node("n1"), Node)
    assert node is not None
    fill(node)
    release, status = Release(number=1), AssignmentStatus(node="n1", release=1)
    release.services.add(name="web")
    status.services.add(name="web", phase=3)
    rollout = Rollout(release=1, phase=Rollout.FAILED)
    rollout.nodes.add(node="n1", phase=3)
    heartbeat, event, secret = Heartbeat(uid=node.uid), Event(), Secret()
    for record in (release, status, rollout, heartbeat, event, secret):
        fill(record)
    shop.write(lambda etcd: etcd.keys.node("n1"), node)
    shop.write(lambda etcd: etcd.keys.release(REF, 1), release)
    shop.write(lambda etcd: etcd.keys.rollout(REF), rollout)
    shop.write(lambda etcd: etcd.keys.status("n1", REF), status)
    shop.write(lambda etcd: etcd.keys.heartbeat("n1"), heartbeat)
    shop.write(lambda etcd: f"{etcd.keys.events_prefix(REF)}{TEXT}", event)
    shop.write(lambda etcd: f"{etcd.keys.events_prefix(REF)}{TEXT}2", TEXT.encode())
    shop.write(lambda etcd: f"{etcd.keys.nodes_prefix}{TEXT}", node)
    shop.write(lambda etcd: f"{etcd.keys.nodes_prefix}{TEXT}2", TEXT.encode())
    shop.write(lambda etcd: f"{etcd.keys.heartbeats_prefix}{TEXT}", TEXT.encode())
    shop.write(lambda etcd: f"{etcd.keys.environments_prefix}{TEXT}", encode(environment))
    shop.write(lambda etcd: f"{etcd.keys.releases_prefix(REF)}{TEXT}", TEXT.encode())
    shop.write(lambda etcd: f"{etcd.keys.secrets_prefix(REF)}{TEXT}", secret)
    shop.write(lambda etcd: f"{etcd.keys.statuses_prefix('n1')}{TEXT}", status)
    return shop


@pytest.mark.parametrize("command", COMMANDS)
def test_command_shows_records_of_hostile_nodes_as_escapes(hostile: Cli, command: str) -> None:
    words, _, rest = command.partition(" -- ")
    trailing = ["--", *rest.split()] if rest else []
    for form in ([], ["-o", "json"], ["--debug"]):
        result = hostile.run(*words.split(), *form, *trailing)
        assert result.stdout + result.stderr
        assert not isinstance(result.exception, Exception), result.exception
        assert not unsafe(result.stdout), form
        assert not unsafe(result.stderr), form


def test_terminal_shows_records_of_hostile_nodes_as_escapes(hostile: Cli) -> None:
    for command in (("status",), ("events",), ("node", "list")):
        terminal = Terminal(hostile, *command)
        terminal.read_until(b"owned")
        terminal.end()
        shown = terminal.seen.decode().replace("\r\n", "\n")
        assert not unsafe(shown, coloured=True), command
        assert "\x1b[8m" not in shown


def test_json_keeps_the_text_of_a_record(hostile: Cli) -> None:
    events = json.loads(hostile.ok("events", "-o", "json"))["events"]
    assert events[0]["message"] == TEXT
