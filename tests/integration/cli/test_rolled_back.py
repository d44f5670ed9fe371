"""Commands after an automatic rollback, on a real etcd: the running release is not the newest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Release, Rollout, RolloutOutcome
from devopsellence.api.v1.workload_pb2 import Task
from devopsellence.cli.deploy import reapply
from devopsellence.cli.deploy.publish import NewerReleaseExists, publish
from devopsellence.cli.images.prune import pinned_images
from devopsellence.cli.output import Output
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store.releases import target_release
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from tests.integration.cli.rollout_writer import RolloutWriter
from tests.integration.cli.secret_operator import CONFIG, Operator, service
from tests.integration.cli.test_deploy import pretending
from tests.support.cli import REF, Cli


@pytest.fixture
def ann(cli: Cli, tmp_path: Path) -> Operator:
    """Release 2 was rolled back to release 1; only release 1 uses TOKEN, only release 2 uses EXTRA."""
    (cli.folder / "devopsellence.yml").write_text(CONFIG)
    ann = Operator(cli.settings, cli.folder, tmp_path / "ann" / "operator.age")
    ann.node("n1")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", b"leaked")
    ann.set("TOKEN", b"one", service="worker")
    ann.set("EXTRA", b"one", service="worker")
    ann.release(1, service("web", DATABASE_URL=1), service("worker", TOKEN=1))
    ann.release(2, service("web", DATABASE_URL=1), service("worker", EXTRA=1), service("broken"))
    with_task(ann, 1, "report")
    with_task(ann, 2, "broken-report")
    rolled_back(ann)
    return ann


def with_task(ann: Operator, number: int, name: str) -> None:
    release = ann.read(lambda etcd: etcd.keys.release(REF, number), Release)
    assert release is not None
    release.tasks.append(Task(name=name, service="worker", command=["true"]))
    ann.write(lambda etcd: etcd.keys.release(REF, number), release)


def rolled_back(ann: Operator) -> None:
    rollout = Rollout(release=2, phase=Rollout.FAILED, target=1, last_settled=1, halted="web ended")
    ann.write(lambda etcd: etcd.keys.rollout(REF), rollout)


def overwrite(ann: Operator, number: int, value: bytes) -> None:
    async def work(etcd: Etcd) -> None:
        await etcd.put(etcd.keys.release(REF, number), value)

    ann.etcd(work)


def test_apply_repeats_the_release_that_runs(ann: Operator) -> None:
    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(3)
        await pretender.settle()

    with pretending(ann, script):
        ann.set("DATABASE_URL", b"fresh", "--apply")
    release = ann.newest()
    assert (release.number, [each.name for each in release.services]) == (3, ["web", "worker"])
    assert [ref.version for each in release.services for ref in each.secret_refs] == [2, 1]


def test_apply_follows_a_rollback_that_comes_in_between(ann: Operator) -> None:
    secret = SecretId("web", "DATABASE_URL")
    ann.write(lambda etcd: etcd.keys.rollout(REF), Rollout(release=2, phase=Rollout.PROGRESSING, last_settled=1))
    ann.set("DATABASE_URL", b"fresh")

    async def work(etcd: Etcd) -> tuple[Release, Release | None]:
        base = await reapply.base_release(etcd, REF, secret)
        rollout = Rollout(release=2, phase=Rollout.ROLLING_BACK, target=1, last_settled=1)
        await etcd.put(etcd.keys.rollout(REF), encode(rollout))
        with pytest.raises(NewerReleaseExists):
            await publish(etcd, REF, base, onto=2, runs=2)
        return base, await reapply.publish_with(etcd, REF, base, secret, 2, Output())

    with ann.being():
        base, written = ann.etcd(work)
    assert (base.number, [each.name for each in base.services]) == (2, ["web", "worker", "broken"])
    assert written is not None
    assert (written.number, [each.name for each in written.services]) == (3, ["web", "worker"])


def test_apply_of_secret_of_the_failed_release_is_refused(ann: Operator) -> None:
    before = ann.dump()
    result = ann.piped(b"two", "secret", "set", "EXTRA", "--service", "worker", "--stdin", "--apply", "-o", "json")
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "secret_unused"
    assert "release 1 does not use it, and it runs because release 2 was rolled back" in error["message"]
    assert ann.dump() == before


@pytest.mark.parametrize(("secret", "release"), [("TOKEN", 1), ("EXTRA", 2)])
def test_delete_is_refused_for_running_and_newest_release(ann: Operator, secret: str, release: int) -> None:
    error = ann.error("secret", "delete", secret, "--service", "worker", "--yes")
    assert error["code"] == "secret_in_use"
    assert f"release {release} " in error["message"]
    assert ann.versions(secret, "worker") == [1]


def test_list_names_the_releases_in_use(ann: Operator) -> None:
    secrets = {entry["name"]: entry for entry in ann.json("secret", "list")["secrets"]}
    assert {name: [use["release"] for use in entry["used_by"]] for name, entry in secrets.items()} == {
        "DATABASE_URL": [1, 2],
        "TOKEN": [1],
        "EXTRA": [2],
    }
    assert secrets["DATABASE_URL"]["release"] == 1


def test_list_shows_running_release_beside_unreadable_newest(ann: Operator) -> None:
    overwrite(ann, 2, b"{")
    document = ann.json("secret", "list")
    assert [problem["key"].endswith("0000000002") for problem in document["problems"]] == [True]
    assert {entry["name"]: entry["release"] for entry in document["secrets"]} == {
        "DATABASE_URL": 1,
        "TOKEN": 1,
        "EXTRA": None,
    }


def test_version_of_the_running_release_is_kept(ann: Operator) -> None:
    for number in range(12):
        ann.set("TOKEN", b"%d" % number, service="worker")
    assert ann.versions("TOKEN", "worker")[0] == 1


def test_attached_node_is_granted_versions_of_the_running_release(ann: Operator) -> None:
    ann.set("TOKEN", b"two", service="worker")
    key = ann.node("n2")
    ann.ok("node", "attach", "n2")
    secret = ann.stored("TOKEN", "worker")
    assert secret is not None
    assert [key.decrypt(version.age) for version in secret.versions] == [b"one", b"two"]


def test_tasks_are_those_of_the_running_release(ann: Operator) -> None:
    document = ann.json("task", "list")
    assert (document["release"], [task["name"] for task in document["tasks"]]) == (1, ["report"])
    assert ann.error("task", "run", "broken-report")["code"] == "task_unknown"


def test_task_is_refused_while_the_running_release_is_not_known(ann: Operator) -> None:
    async def damage(etcd: Etcd) -> None:
        await etcd.put(etcd.keys.rollout(REF), b"{")

    ann.etcd(damage)
    assert ann.error("task", "run", "broken-report")["code"] == "record_unreadable"
    error = ann.error("secret", "set", "DATABASE_URL", "--service", "web", "--value", "x", "--apply")
    assert error["code"] == "record_unreadable"
    assert ann.versions("DATABASE_URL") == [1]


def test_label_change_moves_services_of_the_running_release(ann: Operator) -> None:
    message = ann.error("node", "label", "set", "n1", "--labels", "other")["message"]
    assert "web" in message
    assert "broken" not in message


def test_images_of_the_running_release_are_kept(ann: Operator) -> None:
    first = ann.read(lambda etcd: etcd.keys.release(REF, 1), Release)
    assert first is not None
    first.services[0].image.pinned = f"sha256:{'1' * 64}"
    ann.write(lambda etcd: etcd.keys.release(REF, 1), first)
    for number in range(3, 15):
        ann.release(number, service("web"))
    rollout = Rollout(release=14, phase=Rollout.FAILED, target=1, last_settled=1)
    ann.write(lambda etcd: etcd.keys.rollout(REF), rollout)
    pinned = ann.etcd(lambda etcd: pinned_images(etcd, REF))
    assert pinned is not None
    assert f"sha256:{'1' * 64}" in pinned


def test_images_of_the_release_that_a_second_rollback_returns_to_are_kept(ann: Operator) -> None:
    first = ann.read(lambda etcd: etcd.keys.release(REF, 1), Release)
    assert first is not None
    first.services[0].image.pinned = f"sha256:{'1' * 64}"
    ann.write(lambda etcd: etcd.keys.release(REF, 1), first)
    for number in range(3, 20):
        ann.release(number, service("web"))
    repeats = ann.read(lambda etcd: etcd.keys.release(REF, 19), Release)
    assert repeats is not None
    repeats.rollback_of = 2
    ann.write(lambda etcd: etcd.keys.release(REF, 19), repeats)
    history = [RolloutOutcome(release=number, phase=Rollout.SETTLED) for number in (18, 2, 1)]
    rollout = Rollout(release=19, phase=Rollout.SETTLED, target=19, last_settled=18, history=history)
    ann.write(lambda etcd: etcd.keys.rollout(REF), rollout)
    pinned = ann.etcd(lambda etcd: pinned_images(etcd, REF))
    assert pinned is not None
    assert f"sha256:{'1' * 64}" in pinned


def test_running_release_is_the_rollout_target(ann: Operator) -> None:
    release = ann.etcd(lambda etcd: target_release(etcd, REF))
    assert release is not None
    assert release.number == 1


@pytest.mark.parametrize("value", [b"{", None], ids=["unreadable", "missing"])
def test_rollback_needs_no_record_of_the_newest_release(ann: Operator, value: bytes | None) -> None:
    ann.release(3, service("web", DATABASE_URL=1))

    async def damage(etcd: Etcd) -> None:
        key = etcd.keys.release(REF, 3)
        await (etcd.put(key, value) if value is not None else etcd.delete(key))

    ann.etcd(damage)
    document = ann.json("release", "rollback", "1", "--dry-run")
    assert (document["rollback_of"], document["release"]) == (1, 4)


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["rollback", "dry run"])
def test_rollback_to_secret_version_no_longer_stored_is_refused(ann: Operator, dry_run: list[str]) -> None:
    ann.ok("secret", "delete", "TOKEN", "--service", "worker", "--yes", "--force")
    ann.set("TOKEN", b"another", service="worker")
    ann.release(3, service("web"))
    before = ann.dump()
    error = ann.error("release", "rollback", "1", *dry_run)
    assert error["code"] == "secret_version_gone"
    assert "TOKEN of worker (version 1)" in error["message"]
    assert ann.dump() == before


def test_second_rollback_does_not_return_to_the_release_just_left(ann: Operator) -> None:
    for number in (3, 4):
        ann.release(number, service("web"))
    repeated = ann.read(lambda etcd: etcd.keys.release(REF, 4), Release)
    assert repeated is not None
    repeated.rollback_of = 3
    ann.write(lambda etcd: etcd.keys.release(REF, 4), repeated)
    rollout = Rollout(release=4, phase=Rollout.SETTLED, target=4, last_settled=3)
    rollout.history.add(release=3, phase=Rollout.SETTLED)
    rollout.history.add(release=2, phase=Rollout.FAILED)
    rollout.history.add(release=1, phase=Rollout.SETTLED)
    ann.write(lambda etcd: etcd.keys.rollout(REF), rollout)
    assert ann.json("release", "rollback", "--dry-run")["rollback_of"] == 1
