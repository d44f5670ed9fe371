"""``release rollback`` and cordoned nodes, against a real etcd; a pretended controller rolls out."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Node, Release, Rollout, RolloutOutcome
from tests.integration.cli.rollout_writer import RolloutWriter
from tests.integration.cli.test_deploy import pretending, release
from tests.support.cli import REF, Cli


@pytest.fixture
def ready(shop: Cli) -> Cli:
    """Releases 1, 2 and 3, of which release 2 settled last before the newest."""
    shop.ok("node", "register", "n1")
    shop.ok("node", "attach", "n1")
    for message in ("first", "second", "third"):
        shop.ok("deploy", "--detach", "-m", message)
    outcomes = [RolloutOutcome(release=2, phase=Rollout.SETTLED), RolloutOutcome(release=1, phase=Rollout.SETTLED)]
    shop.write(lambda etcd: etcd.keys.rollout(REF), Rollout(release=3, phase=Rollout.FAILED, history=outcomes))
    return shop


def newest(cli: Cli) -> Release:
    releases = [found for number in range(1, 9) if (found := release(cli, number))]
    return max(releases, key=lambda item: item.number)


def test_rollback_repeats_last_settled_release(ready: Cli) -> None:
    async def script(pretender: RolloutWriter) -> None:
        await pretender.begin(4)
        await pretender.settle()

    with pretending(ready, script):
        ready.ok("release", "rollback", "-m", "too slow")
    rollback, second = newest(ready), release(ready, 2)
    assert second is not None
    assert (rollback.number, rollback.rollback_of, rollback.message) == (4, 2, "too slow")
    assert list(rollback.services) == list(second.services)
    assert rollback.revision == second.revision
    assert "repeats release 2" in ready.ok("release", "list")


def test_a_dry_run_says_what_would_happen_and_writes_nothing(ready: Cli) -> None:
    document = ready.json("release", "rollback", "1", "--dry-run")
    assert (document["release"], document["rollback_of"]) == (4, 1)
    assert [(step["service"], step["action"]) for step in document["plan"]] == [("web", "created")]
    assert "with the content of release 1" in ready.ok("release", "rollback", "1", "--dry-run")
    assert newest(ready).number == 3


def test_invalid_rollback_targets_are_refused(ready: Cli) -> None:
    assert ready.error("release", "rollback", "3")["code"] == "rollback_pointless"
    assert ready.error("release", "rollback", "9")["code"] == "release_unknown"
    ready.write(lambda etcd: etcd.keys.rollout(REF), Rollout(release=3, phase=Rollout.FAILED))
    error = ready.error("release", "rollback")
    assert error["code"] == "release_unknown"
    assert "name a release" in error["message"]
    assert newest(ready).number == 3


def test_rollback_before_first_release_is_refused(shop: Cli) -> None:
    assert shop.error("release", "rollback")["code"] == "release_unknown"


def test_rollback_of_rollback_names_original_release(ready: Cli) -> None:
    async def script(pretender: RolloutWriter) -> None:
        for number in (4, 5, 6):
            await pretender.begin(number)
            await pretender.settle()

    with pretending(ready, script):
        for number in ("1", "2", "4"):
            ready.ok("release", "rollback", number)
    assert (newest(ready).number, newest(ready).rollback_of) == (6, 1)


def test_cordoned_node_is_noted_until_uncordoned(ready: Cli) -> None:
    def cordoned() -> bool:
        node = ready.read(lambda etcd: etcd.keys.node("n1"), Node)
        assert node is not None
        return node.cordoned

    assert ready.json("node", "cordon", "n1")["cordoned"] is True
    assert cordoned()
    error = ready.error("deploy", "--detach")
    assert "cordoned" in error["message"]
    assert "node uncordon n1" in error["message"]
    ready.ok("node", "uncordon", "n1")
    assert not cordoned()
    assert ready.error("node", "cordon", "nobody")["code"] == "node_unknown"
