"""An engine with few addresses: environments that still fit, and one too many; output that outlives a rollback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.host import Host
from tests.support.images import small_image
from tests.support.until import until

CONFIG = """
schema_version: 1
organization: acme
project: {project}
services:
  jobs: {{image: "small:test", args: [sleep, "1000"]}}
"""


@pytest.fixture(scope="module")
def small_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Host whose engine has addresses for its own bridge and two further networks."""
    pool = "base=10.99.0.0/24,size=26"
    with Host(tmp_path_factory.mktemp("small"), "--default-address-pool", pool, "--bip", "10.99.0.1/26") as host:
        host.docker("tag", host.load_image(small_image()), "small:test")
        host.devopsellence("dev", "up")
        yield host


def deploy(host: Host, folder: Path, project: str, *, check: bool = True) -> dict[str, Any]:
    """Deploy a project of its own, and return the last JSON object."""
    folder.mkdir(exist_ok=True)
    (folder / "devopsellence.yml").write_text(CONFIG.format(project=project))
    done = host.devopsellence("deploy", "-o", "json", cwd=folder, check=check)
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def networks_left(host: Host) -> int | None:
    (node,) = json.loads(host.devopsellence("node", "list", "-o", "json").stdout)["nodes"]
    left: int | None = node["networks_left"]
    return left


def test_environment_too_many_fails_at_once_with_the_fix(small_host: Host, tmp_path: Path) -> None:
    until("three networks are left", lambda: networks_left(small_host) == 3)
    warned = small_host.devopsellence("doctor", "-o", "json", check=False).stdout
    assert "networks_few" in warned
    small_host.docker("network", "create", "foreign")
    for number in range(2):
        deploy(small_host, tmp_path / f"fits{number}", f"fits{number}")
    until("no network is left", lambda: networks_left(small_host) == 0)
    assert "no network is left for another environment" in small_host.devopsellence("node", "list").stdout
    too_many = tmp_path / "too-many"
    failed = deploy(small_host, too_many, "too-many", check=False)
    assert failed["error"]["code"] == "rollout_failed"
    assert "default-address-pools in /etc/docker/daemon.json" in failed["error"]["message"]
    status = small_host.status(too_many)
    assert "docker network prune" in status["nodes"][0]["problem"]
    assert "docker network prune" in small_host.devopsellence("events", cwd=too_many).stdout
    # Room is noticed, and the environment starts by itself.
    small_host.docker("network", "rm", "foreign")
    until("it runs", lambda: small_host.status(too_many)["rollout"]["phase"] == "settled")


def test_output_of_a_version_that_never_got_ready_outlives_the_rollback(small_host: Host, tmp_path: Path) -> None:
    config = tmp_path / "devopsellence.yml"
    config.write_text(CONFIG.format(project="fits0"))
    small_host.devopsellence("deploy", cwd=tmp_path)
    bad = """args: [sh, -c, "echo 'FATAL: no database'; exec sleep 1000"],
      readiness: {command: [test, -e, /ready], interval: 1s, retries: 1, start_period: 1s}"""
    config.write_text(CONFIG.format(project="fits0").replace('args: [sleep, "1000"]', bad))
    failed = small_host.devopsellence("deploy", cwd=tmp_path, check=False)
    assert failed.returncode == 1
    assert "FATAL: no database" in failed.stderr
    release = small_host.status(tmp_path)["environment"]["latest_release"]
    assert f"devopsellence logs --release {release}" in failed.stderr
    for command in (["logs", "--previous"], ["logs", "jobs", "--release", str(release)], ["status"], ["events"]):
        assert "FATAL: no database" in small_host.devopsellence(*command, cwd=tmp_path).stdout, command
    assert "FATAL" not in small_host.devopsellence("logs", cwd=tmp_path).stdout
    (failure,) = small_host.status(tmp_path)["rollout"]["failures"]
    assert (failure["service"], failure["release"], failure["log_lines"]) == ("jobs", release, ["FATAL: no database"])
