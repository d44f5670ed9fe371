"""Whole path through the real commands on a host of the module's own: dev up, deploy, status, all killed in turn.

The module has a host (a network namespace with dockerd), each test an environment. Tests depend on a healthy host, and
leave a healthy host, but not on other tests.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.host import Host
from tests.support.images import small_image
from tests.support.need import need_docker
from tests.support.until import until

pytestmark = pytest.mark.timeout(180)

CONFIG = """\
schema_version: 1
organization: acme
project: {project}
services:
  web:
    ports:
      - name: http
        port: 3000
    healthcheck:
      path: /up
      port: 3000
      interval: 1s
    stop_grace_period: 1s
  keeper:
    image: small:test
    command: [/bin/sh, -c, "trap exit TERM; while :; do sleep 1 & wait; done"]
    volumes:
      - source: kept
        target: /kept
    stop_grace_period: 1s
"""
DOCKERFILE = """\
FROM small:test
COPY index.html /www/index.html
COPY up /www/up
CMD ["/bin/sh", "-c", "trap exit TERM; /bin/httpd -f -p 3000 -h /www & wait"]
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    need_docker()
    image = small_image()
    with Host(tmp_path_factory.mktemp("host")) as machine:
        machine.docker("tag", machine.load_image(image), "small:test")
        machine.devopsellence("dev", "up")
        yield machine


class App:
    """Project in a folder, deployed with the real command."""

    def __init__(self, host: Host, folder: Path, project: str) -> None:
        self.host = host
        self.folder = folder
        self.project = project
        (folder / "devopsellence.yml").write_text(CONFIG.format(project=project))
        (folder / "Dockerfile").write_text(DOCKERFILE)
        (folder / "up").write_text("up\n")
        self.page("one")

    def page(self, content: str) -> None:
        (self.folder / "index.html").write_text(f"{content}\n")

    def deploy(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.host.devopsellence("deploy", *args, check=check, cwd=self.folder)

    def status(self) -> dict[str, Any]:
        return self.host.status(self.folder)

    def service(self, name: str) -> dict[str, Any]:
        service: dict[str, Any] = next(item for item in self.status()["services"] if item["service"] == name)
        return service

    def settled(self) -> bool:
        document = self.status()
        return document["rollout"]["phase"] == "settled" and all(service["settled"] for service in document["services"])

    def fetch(self) -> str:
        return self.host.get(self.service("web")["address"]).strip()

    def containers(self, service: str = "") -> list[str]:
        """The ids of all containers of this environment, running or not."""
        label = f"label=devopsellence.environment=acme/{self.project}/production"
        chosen = ["--filter", f"label=devopsellence.service={service}"] if service else []
        return self.host.docker("ps", "-aq", "--no-trunc", "--filter", label, *chosen).split()


@pytest.fixture
def app(host: Host, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[App]:
    project = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:50].strip("-")
    app = App(host, tmp_path, project)
    yield app
    host.devopsellence("node", "detach", "local", "-y", cwd=tmp_path, check=False)
    until("the environment is gone from the node", lambda: not app.containers())


def process(host: Host, name: str) -> int:
    document = json.loads(host.devopsellence("dev", "status", "-o", "json").stdout)
    return next(int(process["pid"]) for process in document["processes"] if process["name"] == name)


def kill(host: Host, name: str) -> None:
    """Kill a process of the local cluster with SIGKILL; the supervisor, unless it is the victim, starts the process
    again.
    """
    os.kill(process(host, name), signal.SIGKILL)


def test_deploy_settles_and_page_answers(app: App) -> None:
    app.deploy()
    assert app.settled()
    assert app.fetch() == "one"
    assert len(app.containers()) == 2


def test_changed_working_tree_makes_a_new_image(app: App) -> None:
    app.deploy()
    keeper = app.containers("keeper")
    app.page("two")
    app.deploy()
    assert app.fetch() == "two"
    assert app.containers("keeper") == keeper, "a service that did not change was restarted"
    assert app.service("keeper")["reused"]
    assert len(app.containers("web")) == 1


def test_same_deploy_again_restarts_nothing(app: App) -> None:
    app.deploy()
    before = sorted(app.containers())
    app.deploy()
    assert sorted(app.containers()) == before


def test_a_dry_run_writes_nothing(app: App, host: Host) -> None:
    output = app.deploy("--dry-run").stdout
    assert "web" in output
    assert "keeper" in output
    assert not app.containers()
    assert json.loads(app.deploy("--dry-run", "-o", "json").stdout)["ok"]
    listed = host.devopsellence("release", "list", cwd=app.folder, check=False)
    assert "1" not in listed.stdout


def test_concurrent_deploys_get_two_numbers(app: App, host: Host) -> None:
    command = host.command(sys.executable, "-m", "devopsellence.cli", "deploy", "--detach", "-o", "json")
    both = [
        subprocess.Popen(
            command, env=host.environ, cwd=app.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    results = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert sorted(result["release"]["number"] for result in results) == [1, 2]
    until("settled", app.settled)
    assert len(app.containers("web")) == 1
    releases = json.loads(host.devopsellence("release", "list", "-o", "json", cwd=app.folder).stdout)
    assert [release["number"] for release in releases["releases"]] == [2, 1]


@pytest.mark.parametrize("victim", ["agent", "controller", "etcd"])
def test_deploy_survives_kills(app: App, host: Host, victim: str) -> None:
    app.deploy()
    app.page("after")
    app.deploy("--detach")
    kill(host, victim)
    until("settled at release 2", lambda: app.status()["release"]["number"] == 2 and app.settled(), seconds=60)
    assert app.fetch() == "after"
    assert len(app.containers()) == 2, "lost, doubled or orphaned containers"


def test_killed_and_removed_containers_come_back(app: App, host: Host) -> None:
    app.deploy()
    (web,) = app.containers("web")
    host.docker("kill", web)
    until("killed: serving again", lambda: app.service("web")["settled"] and app.fetch() == "one")
    assert app.containers("web") == [web]
    assert app.service("web")["restarts"] == 1
    host.docker("rm", "-f", web)
    until("removed: serving again", lambda: app.containers("web") not in ([], [web]) and app.settled())
    assert app.fetch() == "one"


def test_app_answers_without_cluster(app: App, host: Host) -> None:
    app.deploy()
    address = app.service("web")["address"]
    kill(host, "supervisor")
    until(
        "etcd is gone with its supervisor",
        lambda: app.host.devopsellence("status", cwd=app.folder, check=False).returncode,
    )
    assert host.get(address).strip() == "one"
    host.devopsellence("dev", "up")
    until("settled", app.settled)
    assert host.get(address).strip() == "one"


def test_killed_docker_recovers(app: App, host: Host) -> None:
    app.deploy()
    host.kill_docker()
    host.start_docker()
    until("settled", app.settled, seconds=60)
    assert app.fetch() == "one"
    assert len(app.containers()) == 2


def test_unhealthy_version_leaves_old_version_serving(app: App, host: Host) -> None:
    app.deploy()
    (web,) = app.containers("web")
    (app.folder / "Dockerfile").write_text(DOCKERFILE.replace("httpd -f", "false"))
    refused = app.deploy(check=False)
    assert refused.returncode == 1
    assert "web" in refused.stderr
    assert web in app.containers("web")
    assert host.docker("inspect", "-f", "{{.State.Running}}", web) == "true"
    (app.folder / "Dockerfile").write_text(DOCKERFILE)
    app.deploy()
    assert app.containers("web") == [web], "the version that served all along was replaced"


def test_unreadable_record_harms_its_own_key_only(app: App, host: Host) -> None:
    app.deploy()
    # At etcd itself, as the controller: a gateway refuses such values from everybody else.
    status = json.loads(host.devopsellence("dev", "status", "-o", "json").stdout)
    exports = host.devopsellence("dev", "env").stdout.replace("/operator.", "/controller.")
    exports = exports.replace(status["gateway"]["endpoint"], status["etcd"]["endpoint"])
    prefix = "/devopsellence/v1"
    garbage = [
        f"{prefix}/nodes/rotten",
        f"{prefix}/environments/acme/rotten/production",
        f"{prefix}/releases/acme/{app.project}/production/zzz",
        f"{prefix}/rollouts/acme/rotten/production",
        f"{prefix}/assignments/local/acme/rotten/production",
        f"{prefix}/status/local/acme/rotten/production",
        f"{prefix}/heartbeats/rotten",
        f"{prefix}/what/is/this",
    ]
    puts = "\n".join(f"etcdctl put {key} '{{{{ not json'" for key in garbage)
    host.run("sh", "-c", f"{exports}\n{puts}")
    app.page("in spite of it")
    app.deploy()
    assert app.fetch() == "in spite of it"
    # What the controller wrote itself is written anew when somebody scribbles over it.
    own = f"{prefix}/assignments/local/acme/{app.project}/production"
    host.run("sh", "-c", f"{exports}\netcdctl put {own} scribble")
    until(
        "the assignment is readable again",
        lambda: "scribble" not in host.run("sh", "-c", f"{exports}\netcdctl get {own}").stdout,
    )
    until("settled", app.settled)
    assert len(app.containers()) == 2
    host.run("sh", "-c", exports + "\n" + "\n".join(f"etcdctl del {key}" for key in garbage))


def test_etcdctl_reads_every_record(app: App, host: Host) -> None:
    app.deploy()
    exports = host.devopsellence("dev", "env").stdout
    lines = host.run("sh", "-c", f"{exports}\netcdctl get --prefix /devopsellence/v1/").stdout.splitlines()
    records = dict(zip(lines[::2], lines[1::2], strict=True))
    path = f"acme/{app.project}/production"
    for key in (
        "nodes/local", "heartbeats/local", f"environments/{path}", f"releases/{path}/0000000001", f"rollouts/{path}",
        f"assignments/local/{path}", f"status/local/{path}",
    ):  # fmt: skip
        assert json.loads(records[f"/devopsellence/v1/{key}"])
    assert json.loads(records[f"/devopsellence/v1/rollouts/{path}"])["phase"] == "SETTLED"


def test_watch_in_pipe_prints_lines_or_objects(app: App, host: Host) -> None:
    app.deploy("--detach")
    plain = host.devopsellence("status", "--watch", cwd=app.folder).stdout
    assert "settled" in plain
    assert "\x1b" not in plain
    for line in host.devopsellence("status", "--watch", "-o", "json", cwd=app.folder).stdout.splitlines():
        assert json.loads(line)["schema_version"] == 1


def test_service_without_node_writes_nothing(app: App, host: Host) -> None:
    host.devopsellence("node", "label", "set", "local", "--labels", "web", "--force")
    try:
        refused = app.deploy(check=False)
        assert refused.returncode in (1, 2)
        assert 'no attached node is labelled "worker", which service "keeper" needs' in refused.stderr
        assert not app.containers()
    finally:
        host.devopsellence("node", "label", "set", "local", "--labels", "web,worker")
    app.deploy()
    assert app.settled()


def test_labels_move_services_at_once(app: App, host: Host) -> None:
    app.deploy()
    host.devopsellence("node", "label", "set", "local", "--labels", "web", "--force")
    until("the worker is gone", lambda: not app.containers("keeper"))
    assert len(app.containers("web")) == 1
    host.devopsellence("node", "label", "set", "local", "--labels", "web,worker")
    until("settled", app.settled)
    assert len(app.containers("keeper")) == 1


@pytest.mark.parametrize(
    ("mutilate", "expected"),
    [
        (lambda text: text.replace("healthcheck", "healthchek"), "healthcheck"),
        (lambda text: text.replace("port: 3000", "port: 99999"), "port"),
        (lambda text: text.replace("project: ", "project: ../"), "project"),
        (lambda text: text + "\n\t- x", "devopsellence.yml"),
        (lambda text: "", "devopsellence.yml"),
    ],
    ids=["unknown-key", "port", "name", "tab", "empty"],
)
def test_invalid_configuration_is_refused_with_place(app: App, mutilate: Any, expected: str) -> None:
    file = app.folder / "devopsellence.yml"
    file.write_text(mutilate(file.read_text()))
    refused = app.deploy(check=False)
    assert refused.returncode == 2
    assert "devopsellence.yml:" in refused.stderr
    assert expected in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not app.containers()
    file.write_text(CONFIG.format(project=app.project))


JOBS = """\
schema_version: 1
organization: acme
project: {project}
services:
  jobs:
    image: small:test
    command: [/bin/sh, -c, "{script}"]
    stop_grace_period: 0s
"""


def test_release_that_ends_again_and_again_is_rolled_back_after_it_had_settled(app: App) -> None:
    def deploy(script: str) -> None:
        (app.folder / "devopsellence.yml").write_text(JOBS.format(project=app.project, script=script))
        app.deploy()

    deploy("trap exit TERM; while :; do sleep 1 & wait; done")
    assert app.status()["rollout"]["provisional"]
    # It runs for longer than it takes to settle, so the command ends well.
    deploy("sleep 1; echo cannot reach redis:6379; exit 7")
    until("rolled back", lambda: app.status()["rollout"]["phase"] == "failed")
    rollout, (jobs,) = app.status()["rollout"], app.status()["services"]
    assert (rollout["release"], rollout["target"], jobs["release"], jobs["settled"]) == (2, 1, 1, True)
    assert 'it had settled, but service "jobs" on local: ended with exit code 7' in rollout["reason"]
    assert rollout["reason"].endswith("release 1 runs again")
    listed = app.host.devopsellence("release", "list", cwd=app.folder).stdout
    assert "rolled back" in listed
