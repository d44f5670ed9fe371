"""``deploy`` against a real etcd and a real Docker Engine; a pretended controller rolls out."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from devopsellence.api.v1.stored_pb2 import Assignment, Environment, Exit, Node, Release, Rollout, ServiceStatus
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from tests.integration.cli.rollout_writer import RolloutWriter
from tests.support.cli import REF, Cli
from tests.support.docker import docker
from tests.support.images import IMAGE, small_image

BUILD = """\
schema_version: 1
organization: acme
project: Shop
services:
  web:
    ports: [{name: http, port: 3000}]
    healthcheck: {path: /up}
"""


@pytest.fixture
def ready(shop: Cli) -> Cli:
    """Configuration, and an attached node."""
    shop.ok("node", "register", "n1")
    shop.ok("node", "attach", "n1")
    return shop


def release(cli: Cli, number: int, ref: EnvironmentRef = REF) -> Release | None:
    return cli.read(lambda etcd: etcd.keys.release(ref, number), Release)


@contextmanager
def pretending(cli: Cli, script: Callable[[RolloutWriter], Awaitable[None]]) -> Iterator[None]:
    """Run ``script`` in a thread inside the block, in place of controller and agent."""
    failures: list[BaseException] = []

    async def work(etcd: Etcd) -> None:
        async with asyncio.timeout(30):
            await script(RolloutWriter(etcd))

    def act() -> None:
        try:
            cli.etcd(work)
        except BaseException as error:  # noqa: BLE001 (raised in the test's own thread below)
            failures.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def test_release_records_configuration_and_image_digests(ready: Cli) -> None:
    document = ready.ok("deploy", "--detach", "--message", "new search", "-o", "json").splitlines()[-1]
    assert json.loads(document)["release"]["number"] == 1
    stored = release(ready, 1)
    assert stored is not None
    (web,) = stored.services
    assert (web.image.reference, web.image.pinned) == (IMAGE, small_image())
    assert (stored.number, stored.message, stored.project) == (1, "new search", "Shop")
    assert "@" in stored.created_by
    assert stored.created_at.seconds
    environment = ready.read(lambda etcd: etcd.keys.environment(REF), Environment)
    assert environment is not None
    assert (environment.latest_release, list(environment.nodes)) == (1, ["n1"])
    events = ready.json("events")["events"]
    assert [(event["code"], event["release"]) for event in events][-1] == ("release_created", 1)


def test_releases_are_listed_and_shown(ready: Cli) -> None:
    ready.ok("deploy", "--detach", "-m", "first")
    ready.ok("deploy", "--detach", "-m", "second")
    ready.write(lambda etcd: etcd.keys.rollout(REF), Rollout(release=2, phase=Rollout.SETTLED))
    listed = ready.json("release", "list")["releases"]
    assert [(item["number"], item["message"], item["outcome"]) for item in listed] == [
        (2, "second", "settled"),
        (1, "first", "unknown"),
    ]
    assert "second" in ready.ok("release", "list", "--limit", "1")
    assert "first" not in ready.ok("release", "list", "--limit", "1")
    shown = ready.json("release", "show", "1")["release"]
    assert (shown["number"], shown["services"][0]["name"], shown["outcome"]) == (1, "web", "unknown")
    assert IMAGE in ready.ok("release", "show", "2")
    assert ready.error("release", "show", "3")["code"] == "release_unknown"


def test_app_image_is_built_named_by_content_and_reused(ready: Cli) -> None:
    (ready.folder / "devopsellence.yml").write_text(BUILD)
    (ready.folder / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY page /page\n")
    (ready.folder / "page").write_text("one")
    images = set()
    try:
        for _ in range(2):
            output = ready.ok("deploy", "--detach")
            assert "building the app image" in output
        first, second = release(ready, 1), release(ready, 2)
        assert first is not None
        assert second is not None
        image = first.services[0].image
        images.add(image.reference)
        assert image.app
        assert image == second.services[0].image, "the same content must be the same image under the same name"
        assert docker("image", "inspect", "-f", "{{.Id}}", image.reference) == image.pinned
        (ready.folder / "page").write_text("two")
        ready.ok("deploy", "--detach")
        third = release(ready, 3)
        assert third is not None
        images.add(third.services[0].image.reference)
        assert third.services[0].image.pinned != image.pinned
    finally:
        for name in images:
            docker("image", "rm", name)


def test_failed_build_shows_output_and_writes_nothing(ready: Cli) -> None:
    (ready.folder / "devopsellence.yml").write_text(BUILD)
    assert ready.error("deploy")["code"] == "dockerfile_missing"
    (ready.folder / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN echo what-went-wrong && false\n")
    result = ready.run("deploy")
    assert result.exit_code == 1
    assert "what-went-wrong" in result.stderr
    assert ready.error("deploy")["code"] == "build_failed"
    assert release(ready, 1) is None


def test_image_flag_replaces_build(ready: Cli) -> None:
    (ready.folder / "devopsellence.yml").write_text(BUILD)
    ready.ok("deploy", "--detach", "--image", IMAGE)
    stored = release(ready, 1)
    assert stored is not None
    image = stored.services[0].image
    assert (image.reference, image.pinned, image.app) == (IMAGE, small_image(), True)
    assert ready.error("deploy", "--image", "Not A Reference")["code"] == "invalid_image"


def test_image_flag_without_app_service_is_refused(ready: Cli) -> None:
    assert ready.error("deploy", "--image", IMAGE)["code"] == "image_unused"


def test_missing_image_names_service_and_image(ready: Cli) -> None:
    file = ready.folder / "devopsellence.yml"
    file.write_text(file.read_text().replace(IMAGE, "127.0.0.1:1/nowhere:1"))
    error = ready.error("deploy")
    assert error["code"] == "image_unavailable"
    assert 'service "web": image 127.0.0.1:1/nowhere:1' in error["message"]
    assert release(ready, 1) is None


def test_missing_node_for_a_service_builds_and_writes_nothing(shop: Cli) -> None:
    (shop.folder / "devopsellence.yml").write_text(BUILD + "  redis: {image: 'redis:7'}\n")
    (shop.folder / "Dockerfile").write_text("FROM no-such-image:1\n")
    error = shop.error("deploy")
    assert (error["code"], error["exit_code"]) == ("no_node_for_service", 1)
    assert "devopsellence node attach" in error["message"]
    shop.ok("node", "register", "n1")
    shop.ok("node", "attach", "n1")
    result = shop.run("deploy")
    assert result.exit_code == 1
    assert (
        'production: no attached node is labelled "worker", which service "redis" needs; '
        "run devopsellence node label set n1 --labels web,worker"
    ) in result.stderr
    assert "building" not in result.output
    assert release(shop, 1) is None


def test_secrets_are_refused_before_anything_happens(ready: Cli) -> None:
    file = ready.folder / "devopsellence.yml"
    file.write_text(file.read_text() + "    secret_refs: [{name: TOKEN, secret: TOKEN}]\n")
    error = ready.error("deploy")
    assert error["code"] == "missing_secret"
    assert release(ready, 1) is None


def test_invalid_configuration_is_exit_code_2_with_all_places(ready: Cli) -> None:
    file = ready.folder / "devopsellence.yml"
    file.write_text(file.read_text().replace("healthcheck", "healthchek").replace("organization: acme\n", ""))
    error = ready.error("deploy")
    assert (error["code"], error["exit_code"]) == ("config_invalid", 2)
    messages = [finding["message"] for finding in error["findings"]]
    assert len(messages) >= 2
    assert all("devopsellence.yml:" in message for message in messages)


def test_unreadable_environment_is_not_overwritten(ready: Cli) -> None:
    ready.write(lambda etcd: etcd.keys.environment(REF), b"garbage")
    error = ready.error("deploy", "--detach")
    assert error["code"] == "record_unreadable"
    assert "environments/acme/Shop/production" in error["message"]
    assert release(ready, 1) is None


def test_unreadable_node_counts_as_missing(ready: Cli) -> None:
    ready.ok("node", "register", "n2")
    ready.ok("node", "attach", "n2")
    ready.write(lambda etcd: etcd.keys.node("n2"), b"garbage")
    result = ready.run("deploy", "--detach")
    assert result.exit_code == 0
    assert "nodes/n2" in result.stderr


def test_a_dry_run_says_what_would_happen_and_writes_nothing(ready: Cli) -> None:
    plan = ready.json("deploy", "--dry-run")
    assert plan["dry_run"]
    assert plan["release"] == 1
    assert [(item["node"], item["service"], item["action"]) for item in plan["plan"]] == [("n1", "web", "created")]
    assert release(ready, 1) is None
    assert ready.json("events")["events"][-1]["code"] == "node_attached"


def test_dry_run_compares_with_assignments(ready: Cli) -> None:
    ready.ok("deploy", "--detach")
    stored = release(ready, 1)
    assert stored is not None
    ready.write(
        lambda etcd: etcd.keys.assignment("n1", REF), Assignment(node="n1", release=1, services=stored.services)
    )
    assert [item["action"] for item in ready.json("deploy", "--dry-run")["plan"]] == ["kept"]
    file = ready.folder / "devopsellence.yml"
    file.write_text(file.read_text() + "    env: {LEVEL: debug}\n")
    (step,) = ready.json("deploy", "--dry-run")["plan"]
    assert (step["action"], step["reason"]) == ("replaced", "env LEVEL added")
    assert "replaced  env LEVEL added" in ready.ok("deploy", "--dry-run")
    ready.write(lambda etcd: etcd.keys.assignment("n1", REF), b"garbage")
    result = ready.run("deploy", "--dry-run")
    assert "assignments/n1/acme/Shop/production" in result.stderr
    assert result.exit_code == 0


def test_a_dry_run_of_a_build_does_not_build(ready: Cli) -> None:
    (ready.folder / "devopsellence.yml").write_text(BUILD)
    (ready.folder / "Dockerfile").write_text("FROM no-such-image:1\n")
    output = ready.ok("deploy", "--dry-run")
    assert f"app image: would be built from {ready.folder}" in output


def test_deploy_follows_the_rollout_until_it_settles(ready: Cli) -> None:
    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(1)
        await pretender.status(ServiceStatus(name="web", phase=ServiceStatus.STARTING))
        await asyncio.sleep(0.1)
        await pretender.settle()

    with pretending(ready, script):
        output = ready.ok("deploy")
    assert "n1 web: running, healthy, http://172.18.0.9:3000" in output
    assert "Release 1 of acme/Shop/production is settled" in output
    assert "\x1b" not in output


def test_deploy_in_json_prints_an_object_per_line(ready: Cli) -> None:
    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(1)
        await pretender.settle()

    with pretending(ready, script):
        lines = [json.loads(line) for line in ready.ok("deploy", "-o", "json").splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["started", "result"]
    assert {line["operation"] for line in lines} == {"deploy"}
    assert lines[-1]["rollout"]["phase"] == "settled"
    assert lines[-1]["services"][0]["address"] == "http://172.18.0.9:3000"


def test_a_failed_rollout_is_exit_code_1_with_service_exit_code_and_last_lines(ready: Cli) -> None:
    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(1)
        end = Exit(code=3, log_lines=["cannot bind"])
        await pretender.status(
            ServiceStatus(name="web", phase=ServiceStatus.BACKOFF, failed=True, last_exit=end, reason="ended 3 times")
        )
        await pretender.rollout(Rollout.FAILED, 0, "n1: web ended 3 times")

    with pretending(ready, script):
        result = ready.run("deploy")
    assert result.exit_code == 1
    for words in ("release 1 of acme/Shop/production failed: n1: web ended 3 times", "exit code 3", "cannot bind"):
        assert words in result.stderr


def test_superseded_release_names_newer_release(ready: Cli) -> None:
    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(1)
        environment = Environment(organization="acme", project="Shop", environment="production", nodes=["n1"])
        environment.latest_release = 2
        from devopsellence.store.codec import encode

        await pretender.etcd.put(pretender.etcd.keys.environment(REF), encode(environment))

    with pretending(ready, script):
        error = ready.error("deploy")
    assert error["code"] == "rollout_superseded"
    assert "release 2" in error["message"]


def test_status_watch_shows_states_until_the_end(ready: Cli) -> None:
    ready.ok("deploy", "--detach")

    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(1)
        await asyncio.sleep(0.2)
        await pretender.settle()

    with pretending(ready, script):
        lines = [json.loads(line) for line in ready.ok("status", "--watch", "-o", "json").splitlines()]
    assert [line["event"] for line in lines[:-1]] == ["progress"] * (len(lines) - 1)
    assert lines[-1]["event"] == "result"
    assert all(line["environment"]["project"] == "Shop" for line in lines)
    assert lines[-1]["services"][0]["settled"]
    assert "settled" in ready.ok("status", "--watch")


def test_status_names_unreadable_records_and_shows_the_rest(ready: Cli) -> None:
    ready.ok("deploy", "--detach")
    ready.write(lambda etcd: etcd.keys.status("n1", REF), b"garbage")
    shown = ready.json("status")
    assert [problem["key"] for problem in shown["problems"]] == [
        f"{ready.settings.prefix}status/n1/acme/Shop/production"
    ]
    assert shown["release"]["number"] == 1
    ready.write(lambda etcd: etcd.keys.release(REF, 1), b"garbage")
    text = ready.ok("status")
    assert "1 (cannot be read)" in text
    assert "Cannot read" in text


def test_status_shows_node_without_heartbeat_as_unreachable(ready: Cli) -> None:
    ready.ok("deploy", "--detach")
    (web,) = ready.json("status")["services"]
    assert (web["phase"], web["reason"]) == ("pending", "no heartbeat: the agent is not running or cannot reach etcd")
    assert isinstance(ready.read(lambda etcd: etcd.keys.node("n1"), Node), Node)
