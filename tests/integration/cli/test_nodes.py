"""``node``: the records that the commands write."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import (
    Assignment,
    AssignmentStatus,
    Environment,
    Event,
    Heartbeat,
    Node,
    Release,
    ServiceStatus,
)
from devopsellence.api.v1.workload_pb2 import Service, VolumeMount
from devopsellence.store.codec import decode
from devopsellence.store.keys import EnvironmentRef
from tests.support.cli import Cli

ENV = "acme/Shop/production"
REF = EnvironmentRef.parse(ENV)


def test_register_writes_node_and_prints_agent_command(cli: Cli) -> None:
    output = cli.ok("node", "register", "prod-1", "--labels", "worker,web", "--address", "10.0.0.5")
    node = cli.read(lambda etcd: etcd.keys.node("prod-1"), Node)
    assert node is not None
    assert (node.name, list(node.labels), node.address) == ("prod-1", ["web", "worker"], "10.0.0.5")
    assert len(node.uid) == 32
    assert node.registered_at.seconds
    assert f"devopsellence-agent --node prod-1 --node-uid {node.uid}" in output
    assert "devopsellence node attach prod-1" in output


def test_node_has_label_web_by_default(cli: Cli) -> None:
    assert cli.json("node", "register", "n1")["labels"] == ["web"]


def test_registering_again_keeps_uid(cli: Cli) -> None:
    first = cli.json("node", "register", "n1", "--labels", "web,worker")
    assert cli.json("node", "register", "n1", "--labels", "worker,web")["uid"] == first["uid"]


@pytest.mark.parametrize("flags", [["--labels", "worker"], ["--address", "10.0.0.6"]])
def test_register_refuses_another_node_of_same_name(cli: Cli, flags: list[str]) -> None:
    uid = cli.json("node", "register", "n1")["uid"]
    assert cli.error("node", "register", "n1", *flags)["code"] == "node_exists"
    node = cli.read(lambda etcd: etcd.keys.node("n1"), Node)
    assert node is not None
    assert (node.uid, list(node.labels)) == (uid, ["web"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["node", "register", "a/b"], "invalid_name"),
        (["node", "register", "n1", "--labels", "workers"], "invalid_label"),
        (["node", "register", "n1", "--labels", ""], "invalid_label"),
        (["node", "attach", "n1", "--env", "a/b"], "invalid_name"),
        (["node", "attach", "n1", "--env", "a/b/../c"], "invalid_name"),
        (["--prefix", "no-slashes", "node", "list"], "settings_invalid"),
        (["--etcd-endpoints", "nonsense", "node", "list"], "settings_invalid"),
    ],
)
def test_invalid_arguments_exit_with_2(cli: Cli, arguments: list[str], code: str) -> None:
    error = cli.error(*arguments)
    assert (error["code"], error["exit_code"]) == (code, 2)


def test_attach_creates_environment_and_detach_removes_node(cli: Cli) -> None:
    for name in ("n2", "n1"):
        cli.ok("node", "register", name)
        cli.ok("node", "attach", name, "--env", ENV)
    environment = cli.read(lambda etcd: etcd.keys.environment(REF), Environment)
    assert environment is not None
    assert list(environment.nodes) == ["n1", "n2"]
    assert (environment.organization, environment.project, environment.environment) == ("acme", "Shop", "production")
    # Without a configuration the cluster's only environment is meant.
    assert "it runs nothing of it" in cli.ok("node", "detach", "n2", "-y")
    assert cli.json("node", "attach", "n1")["nodes"] == ["n1"]
    assert cli.error("node", "detach", "n2", "-y")["code"] == "node_not_attached"


def test_attach_and_detach_are_events(cli: Cli) -> None:
    cli.ok("node", "register", "n1")
    cli.ok("node", "attach", "n1", "--env", ENV)
    cli.ok("node", "detach", "n1", "-y", "--env", ENV)
    events = cli.json("events", "--env", ENV)["events"]
    assert [(event["code"], event["node"], event["source"]) for event in events] == [
        ("node_attached", "n1", "cli"),
        ("node_detached", "n1", "cli"),
    ]

    async def leases(etcd: object) -> list[int]:
        from devopsellence.store.etcd import Etcd

        assert isinstance(etcd, Etcd)
        return [item.lease for item in (await etcd.list(etcd.keys.events_prefix(REF))).items]

    assert all(cli.etcd(leases))


def test_several_nodes_are_attached_together_or_none(cli: Cli) -> None:
    for name in ("n1", "n2"):
        cli.ok("node", "register", name)
    error = cli.error("node", "attach", "n1", "nobody", "n2", "--env", ENV)
    assert (error["code"], "nobody" in error["message"]) == ("node_unknown", True)
    attached = cli.json("node", "attach", "n2", "n1", "n2", "--env", ENV)
    assert attached["nodes"] == ["n1", "n2"]
    events = [entry["node"] for entry in cli.json("events", "--env", ENV)["events"] if entry["code"] == "node_attached"]
    assert sorted(events) == ["n1", "n2"]


def test_unregistered_node_cannot_be_attached(cli: Cli) -> None:
    error = cli.error("node", "attach", "nobody", "--env", ENV)
    assert error["code"] == "node_unknown"
    assert cli.read(lambda etcd: etcd.keys.environment(REF), Environment) is None


def test_labels_are_replaced_removed_and_listed(cli: Cli) -> None:
    cli.ok("node", "register", "n1")
    assert cli.json("node", "label", "set", "n1", "--labels", "worker,web")["labels"] == ["web", "worker"]
    assert cli.json("node", "label", "list")["nodes"] == {"n1": ["web", "worker"]}
    assert cli.json("node", "label", "remove", "n1", "web")["labels"] == ["worker"]
    assert cli.error("node", "label", "remove", "n1", "web")["code"] == "label_unknown"
    # Labels are given in the same ways to set and to remove, and short names call the same commands.
    assert cli.json("node", "label", "set", "n1", "web", "worker")["labels"] == ["web", "worker"]
    removed = cli.json("node", "label", "rm", "n1", "--labels", "web,worker")
    assert (removed["labels"], removed["operation"]) == ([], "node label remove")
    cli.ok("node", "label", "set", "n1", "worker")
    assert cli.error("node", "label", "set", "nobody", "--labels", "web")["code"] == "node_unknown"
    assert cli.error("node", "label", "list", "nobody")["code"] == "node_unknown"
    # What the node was besides its labels stays.
    node = cli.read(lambda etcd: etcd.keys.node("n1"), Node)
    assert node is not None
    assert node.uid


def test_node_list_shows_agents_environments_and_problems(cli: Cli) -> None:
    uid = cli.json("node", "register", "n1")["uid"]
    cli.ok("node", "register", "n2")
    cli.ok("node", "attach", "n1", "--env", ENV)
    cli.write(lambda etcd: etcd.keys.heartbeat("n1"), Heartbeat(node="n1", uid=uid, docker_version="20.10"))
    cli.write(lambda etcd: etcd.keys.node("rotten"), b"{ not json")
    document = cli.json("node", "list")
    nodes = {node["node"]: node for node in document["nodes"]}
    assert (nodes["n1"]["agent"], nodes["n1"]["note"], nodes["n1"]["environments"]) == ("up", "", [ENV])
    assert (nodes["n2"]["agent"], nodes["n2"]["note"]) == (
        "gone",
        "no heartbeat: the agent is not running or cannot reach etcd",
    )
    assert nodes["rotten"]["note"] == "the node record is unreadable"
    assert [problem["key"] for problem in document["problems"]] == [f"{cli.settings.prefix}nodes/rotten"]
    cli.write(lambda etcd: etcd.keys.heartbeat("n1"), Heartbeat(node="n1", uid="another"))
    assert "the agent runs with uid another" in cli.ok("node", "list")


def test_unreadable_node_is_never_overwritten(cli: Cli) -> None:
    cli.write(lambda etcd: etcd.keys.node("n1"), b"garbage")
    error = cli.error("node", "label", "set", "n1", "--labels", "web")
    assert error["code"] == "record_unreadable"
    assert f"{cli.settings.prefix}nodes/n1" in error["message"]
    assert cli.error("node", "register", "n1")["code"] == "record_unreadable"
    cli.ok("node", "register", "n2")
    cli.write(lambda etcd: etcd.keys.environment(REF), b"garbage")
    assert cli.error("node", "attach", "n2", "--env", ENV)["code"] == "record_unreadable"


def test_events_skip_unreadable_records(cli: Cli) -> None:
    cli.ok("node", "register", "n1")
    cli.ok("node", "attach", "n1", "--env", ENV)
    cli.write(lambda etcd: etcd.keys.event(REF, "zzz"), b"garbage")
    result = cli.run("events")
    assert "node_attached" in result.stdout
    assert "events/acme/Shop/production/zzz is not a readable Event" in result.stderr
    assert decode(Event, "", b"{}") == Event()


def release(cli: Cli, *nodes: str) -> None:
    """Write a release of a web service and of redis with a volume, with these nodes attached."""
    services = [
        Service(name="web", kind=Service.WEB),
        Service(name="redis", kind=Service.WORKER, volumes=[VolumeMount(source="data", target="/data")]),
    ]
    cli.write(lambda etcd: etcd.keys.release(REF, 3), Release(number=3, services=services))
    cli.write(lambda etcd: etcd.keys.environment(REF), Environment(nodes=nodes, latest_release=3))


def labels_of(cli: Cli, name: str) -> list[str]:
    nodes: dict[str, list[str]] = cli.json("node", "label", "list", name)["nodes"]
    return nodes[name]


def test_relabel_shows_moves_first(cli: Cli) -> None:
    for name, labels in (("n1", "web"), ("n2", "worker")):
        cli.ok("node", "register", name, "--labels", labels)
    release(cli, "n1", "n2")
    wanted = ("node", "label", "set", "n1", "--labels", "worker")
    tried = cli.ok(*wanted, "--force", "--dry-run")
    assert f"{ENV}: redis starts on n1 (also on n2)" in tried
    assert f'{ENV}: web stops on n1, which is not labelled "web"' in tried
    assert labels_of(cli, "n1") == ["web"]
    done = cli.json("node", "label", "set", "n1", "--labels", "web,worker")
    assert [(move["service"], move["change"], move["elsewhere"]) for move in done["moves"]] == [
        ("redis", "starts", ["n2"])
    ]
    assert f"{ENV}: redis stops on n2" in cli.ok("node", "label", "remove", "n2", "worker")
    assert labels_of(cli, "n2") == []


def test_relabel_leaving_service_without_node_needs_force(cli: Cli) -> None:
    cli.ok("node", "register", "n1", "--labels", "web,worker")
    release(cli, "n1")
    error = cli.error("node", "label", "remove", "n1", "worker")
    assert error["code"] == "no_node_for_service"
    assert "its volumes (data) stay on n1" in error["findings"][0]["message"]
    command = error["findings"][-1]["next_actions"][0]["command"]
    assert command == "devopsellence node label remove n1 --labels worker --force"
    assert labels_of(cli, "n1") == ["web", "worker"]
    tried = cli.run("node", "label", "remove", "n1", "worker", "--dry-run")
    assert (tried.exit_code, "would be refused without --force" in tried.stderr) == (0, True)
    cli.ok(*command.split()[1:])
    assert labels_of(cli, "n1") == ["web"]


def test_relabel_moves_are_unknown_with_unreadable_record(cli: Cli) -> None:
    cli.ok("node", "register", "n1", "--labels", "web,worker")
    release(cli, "n1")
    cli.write(lambda etcd: etcd.keys.release(REF, 3), b"garbage")
    cli.write(lambda etcd: f"{etcd.keys.environments_prefix}no-environment", Environment(nodes=["n1"]))
    result = cli.run("node", "label", "set", "n1", "--labels", "web")
    assert "its services are not shown" in result.stderr
    assert labels_of(cli, "n1") == ["web"]


@pytest.mark.parametrize(
    ("arguments", "code"), [(["n" * 64], "invalid_name"), (["n1", "--address", "10.0.0.5:7443"], "invalid_address")]
)
def test_register_refuses_invalid_name_or_address(cli: Cli, arguments: list[str], code: str) -> None:
    assert cli.error("node", "register", *arguments)["code"] == code
    assert cli.json("node", "list")["nodes"] == []


def test_agents_without_certificates_have_no_api(cli: Cli) -> None:
    document = cli.json("node", "register", "n1")
    assert "--api-listen" not in document["agent_command"]
    assert f"--etcd-endpoints {cli.settings.endpoints[0]}" in document["agent_command"]
    assert document["bundle"] is None


def running(cli: Cli, node: str, *services: Service, uid: str = "") -> None:
    """Write the assignment and the status of a running release."""
    uid = uid or str(cli.json("node", "register", node, *labels_flag(cli, node))["uid"])
    assignment = Assignment(node=node, node_uid=uid, release=3, services=services)
    status = AssignmentStatus(
        node=node, node_uid=uid, services=[ServiceStatus(name=service.name) for service in services]
    )
    cli.write(lambda etcd: etcd.keys.assignment(node, REF), assignment)
    cli.write(lambda etcd: etcd.keys.status(node, REF), status)
    cli.write(lambda etcd: etcd.keys.heartbeat(node), Heartbeat(node=node, uid=uid))


def labels_flag(cli: Cli, node: str) -> list[str]:
    return ["--labels", ",".join(labels_of(cli, node))]


WEB = Service(name="web", kind=Service.WEB)
REDIS = Service(name="redis", kind=Service.WORKER, volumes=[VolumeMount(source="data", target="/data")])


@pytest.fixture
def two(cli: Cli) -> Cli:
    """n1 runs web and redis, n2 web."""
    for name, labels in (("n1", "web,worker"), ("n2", "web")):
        cli.ok("node", "register", name, "--labels", labels)
    release(cli, "n1", "n2")
    running(cli, "n1", WEB, REDIS)
    running(cli, "n2", WEB)
    return cli


def node_of(cli: Cli, name: str) -> Node:
    record = cli.read(lambda etcd: etcd.keys.node(name), Node)
    assert record is not None
    return record


def test_drain_is_recorded_and_uncordon_ends_it(two: Cli) -> None:
    output = two.ok("node", "drain", "n1", "--detach")
    assert f"{ENV}: web leaves n1 (runs on or moves to n2)" in output
    assert f"{ENV}: redis stays on n1 with its data (data)" in output
    node = node_of(two, "n1")
    assert (node.cordoned, node.drain.volumes, bool(node.drain.requested_by)) == (True, False, True)
    two.ok("node", "drain", "n1", "--detach")
    assert node_of(two, "n1") == node
    assert two.json("node", "list")["nodes"][0]["state"] == "draining"
    assert [(event["code"], event["node"]) for event in two.json("events", "--env", ENV)["events"]] == [
        ("node_draining", "n1")
    ]
    two.ok("node", "uncordon", "n1")
    node = node_of(two, "n1")
    assert (node.cordoned, node.HasField("drain")) == (False, False)


def test_drain_leaving_service_without_node_needs_force(two: Cli) -> None:
    error = two.error("node", "drain", "n1", "--move-volumes")
    assert error["code"] == "node_drain_unplaced"
    assert 'n2 is not labelled "worker"' in error["findings"][0]["message"]
    command = error["findings"][-1]["next_actions"][-1]["command"]
    assert command == "devopsellence node drain n1 --move-volumes --force"
    tried = two.run("node", "drain", "n1", "--move-volumes", "--dry-run")
    assert (tried.exit_code, "would be refused without --force" in tried.stderr) == (0, True)
    assert not node_of(two, "n1").cordoned
    two.ok(*command.split()[1:], "--detach")
    assert node_of(two, "n1").drain.volumes
    # Nobody carries it out here.
    late = two.error("node", "drain", "n1", "--move-volumes", "--force", "--timeout", "1s")
    assert late["code"] == "node_drain_timeout"
    assert "controller" in late["message"]
    assert [finding["message"] for finding in late["findings"][:2]] == [
        f"{ENV}: redis still runs",
        f"{ENV}: web still runs",
    ]


def test_drain_refuses_unknown_node_and_zero_timeout(cli: Cli) -> None:
    assert cli.error("node", "drain", "nobody")["code"] == "node_unknown"
    cli.ok("node", "register", "n1")
    assert cli.error("node", "drain", "n1", "--timeout", "soon")["exit_code"] == 2
    # A node that runs nothing is drained at once, without anybody's help.
    assert cli.json_lines("node", "drain", "n1")[-1]["drained"]


def test_remove_refuses_node_in_use(two: Cli) -> None:
    error = two.error("node", "remove", "n1", "-y")
    assert error["code"] == "node_in_use"
    assert [action["command"] for action in error["findings"][-1]["next_actions"]] == [
        "devopsellence node drain n1",
        "devopsellence node remove n1 --force",
    ]
    tried = two.run("node", "remove", "n1", "--dry-run")
    assert (tried.exit_code, "would be refused without --force" in tried.stderr) == (0, True)
    assert f"n1 would be detached from {ENV}" in tried.stdout
    assert node_of(two, "n1").uid
    forced = two.json_lines("node", "remove", "n1", "--force", "-y")[-1]
    assert (forced["removed"], forced["detached"]) == (True, [ENV])
    assert two.read(lambda etcd: etcd.keys.node("n1"), Node) is None
    assert two.read(lambda etcd: etcd.keys.heartbeat("n1"), Heartbeat) is None
    environment = two.read(lambda etcd: etcd.keys.environment(REF), Environment)
    assert environment is not None
    assert list(environment.nodes) == ["n2"]
    # Its assignment is for the controller to put away: until then there is something left to remove.
    assert two.json("node", "remove", "n1", "-y")["removed"] is True


def test_remove_of_unused_and_unknown_node(cli: Cli) -> None:
    cli.ok("node", "register", "n1")
    assert cli.json("node", "remove", "n1", "-y")["removed"] is True
    assert cli.json("node", "remove", "n1", "-y")["removed"] is False
    assert "Nothing to remove" in cli.ok("node", "remove", "n1", "-y")
    assert cli.error("node", "remove", "a/b", "-y")["code"] == "invalid_name"


def test_unreadable_node_is_removed_only_with_force(cli: Cli) -> None:
    cli.ok("node", "register", "n1")
    cli.write(lambda etcd: etcd.keys.node("n1"), b"garbage")
    error = cli.error("node", "remove", "n1", "-y")
    assert error["code"] == "record_unreadable"
    cli.ok("node", "remove", "n1", "--force", "-y")
    assert cli.json("node", "list")["nodes"] == []


def test_register_replace_gives_name_to_another_machine(cli: Cli) -> None:
    assert cli.error("node", "register", "n1", "--replace", "-y")["code"] == "node_unknown"
    first = cli.json("node", "register", "n1", "--labels", "worker", "--address", "10.0.0.5")
    cli.ok("node", "cordon", "n1")
    cli.write(lambda etcd: etcd.keys.heartbeat("n1"), Heartbeat(node="n1", uid=first["uid"]))
    second = cli.json("node", "register", "n1", "--replace", "-y", "--address", "10.0.0.6")
    assert second["replaced"] == first["uid"] != second["uid"]
    assert (second["labels"], second["address"], second["cordoned"]) == (["worker"], "10.0.0.6", True)
    assert cli.read(lambda etcd: etcd.keys.heartbeat("n1"), Heartbeat) is None
    assert second["uid"] in second["agent_command"]
    cli.write(lambda etcd: etcd.keys.heartbeat("n1"), Heartbeat(node="n1", uid=first["uid"]))
    assert cli.json("node", "list")["nodes"][0]["state"] == "replaced"
