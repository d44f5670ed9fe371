"""Replicas in the output of commands before anything is written."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Assignment, Environment, Heartbeat, Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.store.keys import EnvironmentRef
from tests.support.cli import Cli

REF = EnvironmentRef("acme", "Shop", "production")
JOBS = "  jobs: {{image: {image}, args: [sleep, '9'], replicas: {replicas}}}\n"


@pytest.fixture
def three(shop: Cli) -> Cli:
    """Shop with two reachable worker nodes, and a third node that is no worker."""
    for name, labels in {"n1": "worker", "n2": "web,worker", "n3": "web"}.items():
        shop.ok("node", "register", name, "--labels", labels)
        shop.ok("node", "attach", name, "--env", "production")
        beat(shop, name)
    return shop


def beat(cli: Cli, name: str) -> None:
    node = cli.read(lambda etcd: etcd.keys.node(name), Node)
    assert node is not None
    cli.write(lambda etcd: etcd.keys.heartbeat(name), Heartbeat(node=name, uid=node.uid))


def configure(cli: Cli, replicas: int) -> None:
    file = cli.folder / "devopsellence.yml"
    text = file.read_text().partition("  jobs:")[0]
    image = text.partition("image: ")[2].partition("\n")[0]
    file.write_text(text + JOBS.format(image=image, replicas=replicas))


def latest(cli: Cli) -> int:
    environment = cli.read(lambda etcd: etcd.keys.environment(REF), Environment)
    assert environment is not None
    return environment.latest_release


def test_too_many_replicas_are_refused_with_reasons(three: Cli) -> None:
    configure(three, 3)
    error = three.error("deploy", "--detach")
    assert (error["code"], error["exit_code"]) == ("no_node_for_service", 2)
    assert error["message"] == (
        'production: service "jobs" needs 3 replicas, but 2 attached nodes may run it '
        '(n3: not labelled "worker" (labels: web)); run devopsellence node label set n3 --labels web,worker'
    )
    assert latest(three) == 0
    three.ok("node", "label", "set", "n3", "--labels", "web,worker")
    three.ok("deploy", "--detach")
    assert latest(three) == 1


def test_dry_run_shows_replica_placement_and_reasons(three: Cli) -> None:
    configure(three, 1)
    output = three.ok("deploy", "--dry-run")
    assert 'replicas of jobs: n1 (1 of 1; not on n3: not labelled "worker" (labels: web))' in output
    assert "n1    jobs     created  one of 1 replica" in output
    three.write(
        lambda etcd: etcd.keys.assignment("n2", REF),
        Assignment(node="n2", services=[Service(name="jobs", kind=Service.WORKER, replicas=1)]),
    )
    document = three.json("deploy", "--dry-run")
    assert document["replicas"] == [
        {
            "service": "jobs",
            "replicas": 1,
            "nodes": ["n2"],
            "refused": {"n3": 'not labelled "worker" (labels: web)'},
        }
    ]
    assert latest(three) == 0


def test_unreachable_node_is_a_warning(three: Cli) -> None:
    configure(three, 2)
    three.etcd(lambda etcd: etcd.delete(etcd.keys.heartbeat("n2")))
    result = three.run("deploy", "--dry-run")
    assert result.exit_code == 0, result.output
    assert 'for now, service "jobs" needs 2 replicas, but 1 attached node may run it' in result.stderr
    assert "n2: unreachable" in result.stderr


def test_labels_show_where_replicas_move(three: Cli) -> None:
    configure(three, 1)
    three.ok("deploy", "--detach")
    three.write(
        lambda etcd: etcd.keys.assignment("n1", REF),
        Assignment(node="n1", services=[Service(name="jobs", kind=Service.WORKER, replicas=1)]),
    )
    moves = three.json("node", "label", "set", "n1", "--labels", "web", "--dry-run")["moves"]
    assert [(move["service"], move["node"], move["change"], move["elsewhere"]) for move in moves] == [
        ("jobs", "n1", "stops", ["n2"]),
        ("jobs", "n2", "starts", []),
        ("web", "n1", "starts", ["n2", "n3"]),
    ]
