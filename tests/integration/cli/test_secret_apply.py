"""``secret set --apply``: a new version of a secret reaches the running services, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Registry, Rollout
from devopsellence.cli.deploy import reapply
from devopsellence.cli.output import Output
from devopsellence.cli.secrets.records import SecretId
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY
from tests.integration.cli.rollout_writer import RolloutWriter
from tests.integration.cli.secret_operator import CONFIG, Operator, put_release, service
from tests.integration.cli.test_deploy import pretending
from tests.support.cli import REF, Cli


@pytest.fixture
def ann(cli: Cli, tmp_path: Path) -> Operator:
    """Release 1 refers to the first version of three secrets."""
    (cli.folder / "devopsellence.yml").write_text(CONFIG)
    ann = Operator(cli.settings, cli.folder, tmp_path / "ann" / "operator.age")
    ann.node("n1")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", b"one")
    ann.set("TOKEN", b"one", service="worker")
    ann.set("DATABASE_URL", b"one", service="worker")
    ann.set("REGISTRY_PASSWORD", b"one", service=REGISTRY)
    login = Registry(repository="r/shop", username="shop", password_secret="REGISTRY_PASSWORD", password_version=1)
    ann.release(1, service("web", DATABASE_URL=1), service("worker", TOKEN=1, DATABASE_URL=1), registry=login)
    return ann


def versions(operator: Operator) -> dict[str, int]:
    release = operator.newest()
    versions = {
        f"{service.name}/{ref.secret}": ref.version for service in release.services for ref in service.secret_refs
    }
    return {**versions, "registry": release.registry.password_version}


BEFORE = {"web/DATABASE_URL": 1, "worker/TOKEN": 1, "worker/DATABASE_URL": 1, "registry": 1}


def test_apply_repeats_newest_release_with_new_version(ann: Operator) -> None:
    # Set but not applied: this waits for a deploy.
    ann.set("TOKEN", b"two", service="worker")

    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(2)
        await pretender.settle()

    with pretending(ann, script):
        result = ann.set("DATABASE_URL", b"two", "--apply", "-o", "json")
    *events, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert (last["event"], last["ok"], last["release"]["number"]) == ("result", True, 2)
    assert [event["stage"] for event in events if "stage" in event][:2] == ["set", "released"]
    assert versions(ann) == {**BEFORE, "web/DATABASE_URL": 2}
    release = ann.newest()
    assert (release.number, release.message) == (2, "secret DATABASE_URL of web set")
    assert [service.image.pinned for service in release.services] == [f"sha256:{'0' * 64}"] * 2


def test_apply_reports_failed_rollout(ann: Operator) -> None:
    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(2)
        await pretender.rollout(Rollout.FAILED, 0, "n1/web: exited with code 1")

    with pretending(ann, script):
        result = ann.piped(b"two", "secret", "set", "REGISTRY_PASSWORD", "--registry", "--stdin", "--apply")
    assert result.exit_code == 1
    assert "exited with code 1" in result.stderr
    assert versions(ann) == {**BEFORE, "registry": 2}


def test_apply_refuses_secret_unused_by_newest_release(ann: Operator) -> None:
    result = ann.piped(b"two", "secret", "set", "TOKEN", "--service", "web", "--stdin", "--apply", "-o", "json")
    assert json.loads(result.stdout)["error"]["code"] == "secret_unused"
    assert ann.stored("TOKEN") is None
    assert ann.newest().number == 1


def test_apply_of_current_version_writes_no_release(ann: Operator) -> None:
    assert "release 1 already uses version 1" in ann.set("DATABASE_URL", b"one", "--apply").stdout
    assert ann.newest().number == 1


def test_apply_keeps_concurrent_release(ann: Operator) -> None:
    ann.set("DATABASE_URL", b"two")
    secret = SecretId("web", "DATABASE_URL")
    theirs = [service("web", DATABASE_URL=1, EXTRA=1)]
    ann.set("EXTRA", b"value")

    async def work(etcd: Etcd) -> int:
        base = await reapply.base_release(etcd, REF, secret)
        # A deploy of somebody else comes in between.
        await put_release(etcd, REF, 2, theirs)
        release = await reapply.publish_with(etcd, REF, base, secret, 2, Output())
        assert release is not None
        return release.number

    with ann.being():
        assert ann.etcd(work) == 3
    assert versions(ann) == {"web/DATABASE_URL": 2, "web/EXTRA": 1, "registry": 0}
