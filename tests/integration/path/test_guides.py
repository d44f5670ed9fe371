"""Example of the guides, deployed on a host of its own, and the promises of the guides."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.host import Host
from tests.support.until import until

pytestmark = pytest.mark.timeout(300)

EXAMPLE = Path(__file__).parents[3] / "examples" / "services"
PASSWORD = "correct-horse-battery-staple"
# Asks as fast as it is answered, until it is told to stop; then says how many answers were good and how many were not.
ASK = """\
import signal, sys, urllib.request
asked = {"good": 0, "bad": 0}
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
print("asking", flush=True)
while not told:
    try:
        good = urllib.request.urlopen(sys.argv[1], timeout=5).status == 200
    except OSError:
        good = False
    asked["good" if good else "bad"] += 1
print(asked["good"], asked["bad"])
"""


class Bookshop:
    """Copy of the example on a host of its own."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.folder = folder

    def run(self, *args: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.host.devopsellence(*args, check=check, stdin=stdin, cwd=self.folder, timeout=200)

    def services(self) -> dict[str, dict[str, Any]]:
        return {service["service"]: service for service in self.host.status(self.folder)["services"]}

    def page(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.host.get(self.services()["web"]["address"]))
        return document

    def visit(self, host: str, path: str = "/") -> tuple[int, str]:
        """Send a request for a host to the local cluster; return status and body, (0, "") without an answer."""
        port = json.loads(self.host.devopsellence("dev", "status", "-o", "json").stdout)["ingress"]["http_port"]
        command = ["curl", "-s", "-w", "\n%{http_code}", "--noproxy", "*", "-H", f"Host: {host}"]
        output = self.host.run(*command, f"http://127.0.0.1:{port}{path}", check=False).stdout
        body, _, status = output.rpartition("\n")
        return int(status), body

    def set_password(self, value: str, *more: str) -> None:
        for service in ("search", "web"):
            self.run("secret", "set", "SEARCH_PASSWORD", "--service", service, "--stdin", *more, stdin=f"{value}\n")

    def containers(self) -> dict[str, str]:
        return {name: service["container"] for name, service in self.reported().items() if "container" in service}

    def reported(self) -> dict[str, dict[str, Any]]:
        """Return the status in etcd, by service."""
        document = json.loads(self.etcd("status/local/acme/bookshop/production"))
        return {service["name"]: service for service in document["services"]}

    def etcd(self, key: str) -> str:
        exports = self.host.devopsellence("dev", "env").stdout
        flag = "--print-value-only" if key else "--prefix"
        script = f"{exports}\netcdctl get {flag} /devopsellence/v1/{key}"
        return self.host.run("sh", "-c", script).stdout

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert old in text
        (self.folder / file).write_text(text.replace(old, new))

    @contextmanager
    def edited(self, file: str, old: str, new: str) -> Iterator[None]:
        """Edit the configuration inside the block."""
        before = (self.folder / file).read_text()
        self.edit(file, old, new)
        try:
            yield
        finally:
            (self.folder / file).write_text(before)

    @contextmanager
    def asking(self, url: str) -> Iterator[AnswerCounter]:
        """Asks for a page all the time."""
        command = self.host.command(sys.executable, "-c", ASK, url)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        asking = AnswerCounter()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "asking\n"
            yield asking
        finally:
            process.terminate()
            words = process.communicate(timeout=30)[0].split()
        asking.answers = (int(words[0]), int(words[1]))


@dataclass
class AnswerCounter:
    """Counts of good and other answers, once the requests have ended."""

    answers: tuple[int, int] = (0, 0)


@pytest.fixture(scope="module")
def shop(stocked: Host, tmp_path_factory: pytest.TempPathFactory) -> Bookshop:
    """Example deployed once; the first test checks the deploy."""
    folder = tmp_path_factory.mktemp("bookshop")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    return Bookshop(stocked, folder)


@pytest.fixture(scope="module")
def deployed(shop: Bookshop) -> Bookshop:
    refused = shop.run("deploy", check=False)
    assert refused.returncode == 1
    assert "SEARCH_PASSWORD" in refused.stderr
    assert "devopsellence secret set SEARCH_PASSWORD --service search --env production --stdin" in refused.stderr
    assert "has no releases yet" in shop.run("release", "list").stdout
    shop.set_password(PASSWORD)
    shop.run("deploy")
    return shop


def test_example_runs_and_page_reaches_services(deployed: Bookshop) -> None:
    services = deployed.services()
    assert set(services) == {"backup", "mailer", "memcached", "redis", "search", "web"}
    assert all(service["settled"] for service in services.values())
    page = deployed.page()
    assert page["book"] == "Operators at work"
    assert int(page["schema"]) >= 1, "the migration ran before the page was there"


def test_ingress_answers_its_host_only(deployed: Bookshop) -> None:
    until("the way in is open", lambda: deployed.visit("bookshop.localhost")[0] == 200)
    assert json.loads(deployed.visit("bookshop.localhost")[1])["book"] == "Operators at work"
    assert deployed.visit("bookshop.localhost", "/up")[0] == 200
    assert deployed.visit("search.localhost")[0] == 404


def test_first_migration_waits_for_ready_redis(deployed: Bookshop) -> None:
    task = json.loads(deployed.etcd("rollouts/acme/bookshop/production"))["task"]
    assert task["phase"] == "SUCCEEDED"
    assert task["exit"]["log_lines"][-1].startswith("schema")


def test_logs_exec_and_tasks(deployed: Bookshop) -> None:
    deployed.page()
    ping = deployed.run("exec", "redis", "--", "redis-cli", "ping")
    assert (ping.stdout, ping.returncode) == ("PONG\n", 0)
    assert deployed.run("exec", "web", "--", "false", check=False).returncode == 1
    assert deployed.run("exec", "-i", "web", "--", "cat", stdin="through\x00it").stdout == "through\x00it"
    until("a mail is sent", lambda: "sent: visit" in deployed.run("logs", "mailer").stdout)
    assert "Ready to accept connections" in deployed.run("logs", "redis").stdout
    report = deployed.run("task", "run", "report")
    assert report.stdout.startswith("visits: ")
    assert deployed.run("exec", "backup", "--", "test", "-s", "/backups/redis.rdb").returncode == 0


def test_secret_is_nowhere_in_plain_text(deployed: Bookshop) -> None:
    everything = deployed.etcd("")
    assert "SEARCH_PASSWORD" in everything
    assert PASSWORD not in everything
    home = deployed.host.folder / "home"
    result = subprocess.run(["grep", "-rlF", PASSWORD, str(home)], capture_output=True, text=True, check=False)
    assert result.stdout == ""
    for command in (["secret", "list"], ["deploy", "--dry-run"], ["release", "show", "1"], ["events"], ["status"]):
        for form in ("text", "json"):
            result = deployed.run(*command, "-o", form)
            assert PASSWORD not in result.stdout + result.stderr, command
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(PASSWORD.encode() in line for line in lines)
    assert deployed.run("exec", "search", "--", "printenv", "SEARCH_PASSWORD").stdout == f"{PASSWORD}\n"


def test_changed_secret_replaces_its_services_only(deployed: Bookshop) -> None:
    before = deployed.containers()
    deployed.set_password("another")
    assert deployed.containers() == before, "setting alone replaces nothing"
    deployed.run("deploy")
    after = deployed.containers()
    assert {name for name in after if after[name] != before[name]} == {"search", "web"}
    assert deployed.page()["book"] == "Operators at work"
    # At once, without another deploy; one service at a time.
    deployed.set_password("a third", "--apply")
    assert deployed.run("exec", "search", "--", "printenv", "SEARCH_PASSWORD").stdout == "a third\n"
    assert deployed.page()["book"] == "Operators at work"
    assert {name for name, container in deployed.containers().items() if container != after[name]} == {"search", "web"}


def test_failing_migration_leaves_old_version_answering(deployed: Bookshop) -> None:
    url = deployed.services()["web"]["address"]
    before = deployed.containers()
    deployed.edit("web.py", 'VERSION = "1"', 'VERSION = "2"')
    failing = ("migrate.py", "store.set(", "raise SystemExit('column missing')\nstore.set(")
    with deployed.edited(*failing), deployed.asking(f"{url}/up") as asking:
        failed = deployed.run("deploy", check=False)
    assert failed.returncode == 1
    assert "column missing" in failed.stderr
    assert "exit code 1" in failed.stderr
    good, bad = asking.answers
    assert (good > 0, bad) == (True, 0)
    assert deployed.containers() == before
    assert deployed.page()["version"] == "1"
    deployed.run("deploy")
    assert deployed.page()["version"] == "2"


@pytest.mark.parametrize("victim", ["agent", "controller"])
def test_migration_runs_once_despite_kills(deployed: Bookshop, victim: str) -> None:
    schema = int(deployed.page()["schema"])
    marker = f"holding-{victim}"
    hold = f'print("{marker}", flush=True); __import__("time").sleep(6)\nprint(f"schema'

    def running() -> bool:
        ids = deployed.host.docker("ps", "-q", "--filter", "label=devopsellence.task=release").split()
        return any(marker in deployed.host.docker("logs", container) for container in ids)

    with deployed.edited("migrate.py", 'print(f"schema', hold):
        deployed.run("deploy", "--detach")
        until("the migration is at work", running)
        document = json.loads(deployed.host.devopsellence("dev", "status", "-o", "json").stdout)
        os.kill(
            next(int(process["pid"]) for process in document["processes"] if process["name"] == victim), signal.SIGKILL
        )
        deployed.run("status", "--watch")
    assert int(deployed.page()["schema"]) == schema + 1


def test_volumes_outlive_all_containers(deployed: Bookshop) -> None:
    visits = deployed.page()["visits"]
    deployed.edit(
        "devopsellence.yml",
        "args:\n      - redis-server",
        'env: {WHY: "another spec"}\n    args:\n      - redis-server',
    )
    deployed.run("deploy")
    assert deployed.page()["visits"] > visits


def test_rollback_restores_previous_version_only(deployed: Bookshop) -> None:
    version, before = deployed.page()["version"], deployed.containers()
    with deployed.edited("web.py", f'VERSION = "{version}"', 'VERSION = "worse"'):
        deployed.run("deploy")
    assert deployed.page()["version"] == "worse"
    assert "replaced" in deployed.run("release", "rollback", "--dry-run").stdout
    deployed.run("release", "rollback", "--message", "it was worse")
    assert deployed.page()["version"] == version
    after = deployed.containers()
    assert {name for name in after if after[name] == before[name]} == {"backup", "memcached", "redis", "search"}


def test_environments_on_one_node_are_separate(deployed: Bookshop) -> None:
    before = deployed.containers()
    for service in ("search", "web"):
        args = ("secret", "set", "SEARCH_PASSWORD", "--service", service, "--env", "staging", "--stdin")
        deployed.run(*args, stdin="staging's own")
    deployed.run("deploy", "--env", "staging")
    status = json.loads(deployed.run("status", "--env", "staging", "-o", "json").stdout)
    url = next(service["address"] for service in status["services"] if service["service"] == "web")
    assert json.loads(deployed.host.get(url))["visits"] == 1, "staging has a Redis of its own"
    until("its host is answered", lambda: deployed.visit("staging.bookshop.localhost")[0] == 200)
    assert json.loads(deployed.visit("staging.bookshop.localhost")[1])["visits"] == 3
    assert deployed.containers() == before
    deployed.run("node", "detach", "local", "-y", "--env", "staging")
    until(
        "staging is gone",
        lambda: (
            not deployed.host.docker("ps", "-aq", "--filter", "label=devopsellence.environment=acme/bookshop/staging")
        ),
    )
    assert deployed.containers() == before


def test_labels_move_services_at_once(deployed: Bookshop) -> None:
    preview = deployed.run("node", "label", "set", "local", "--labels", "web", "--dry-run").stdout
    assert "redis" in preview
    assert "redis" in deployed.containers()
    deployed.run("node", "label", "set", "local", "--labels", "web", "--force")
    until("only the page is left", lambda: set(deployed.containers()) == {"web"})
    deployed.run("node", "label", "set", "local", "--labels", "web,worker")
    until(
        "all are back",
        lambda: all(service["settled"] for service in deployed.services().values()) and len(deployed.services()) == 6,
    )
    assert deployed.page()["visits"] > 1
