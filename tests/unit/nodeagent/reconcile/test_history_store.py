"""Restart histories of an environment: changes, pruning, and writes to disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.plan.actions import ServicePlan
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause, RestartHistory
from devopsellence.nodeagent.reconcile.history_store import RestartHistoryStore
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from tests.unit.nodeagent.planning import ENV, container, desired_of, service

NOW = Now(100.0, 5000.0)
WEB = service()
KEY = ("web", desired_of(WEB).services["web"].hash)


def refused(history: RestartHistory) -> RestartHistory:
    return history.refused(FailureCause.IMAGE, "no such image", NOW, seed="x")


async def test_changed_histories_are_saved_and_loaded(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        store = RestartHistoryStore(ENV, folder, ThreadPool(1, "disk"), {})
        store.change(KEY, refused)
        assert store.unsaved
        await store.save()
        assert folder.restart_histories(ENV, NOW)[KEY].reason == "no such image"
        # An empty history is dropped.
        store.change(KEY, lambda _history: NO_HISTORY)
        assert store.histories == {}


def test_arrived_image_ends_the_backoff(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        store = RestartHistoryStore(ENV, folder, ThreadPool(1, "disk"), {KEY: refused(NO_HISTORY)})
        assert store.image_arrived()
        assert store.histories[KEY].retry == 0.0
        assert store.unsaved


@pytest.mark.parametrize(
    ("cause", "again"),
    [(FailureCause.NAME_TAKEN, True), (FailureCause.ADDRESS_POOL, True), (FailureCause.DISK_FULL, False)],
)
def test_changed_networks_end_the_backoff_of_the_network(tmp_path: Path, cause: FailureCause, again: bool) -> None:
    blocked = NO_HISTORY.refused(cause, "in the way", NOW, seed="x")
    with StateFolder(tmp_path) as folder:
        store = RestartHistoryStore(ENV, folder, ThreadPool(1, "disk"), {("", ""): blocked, KEY: blocked})
        assert store.networks_changed() == again
        assert store.histories["", ""].waits(NOW.mono) != again
        assert store.histories["", ""].reason == "in the way", "until it is known better"
        assert store.histories[KEY] == blocked


def test_ready_container_is_news_once(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        store = RestartHistoryStore(ENV, folder, ThreadPool(1, "disk"), {})
        plans = [ServicePlan("web", stored_pb2.ServiceStatus.RUNNING, ready=container(WEB))]
        assert store.note_ready(plans)
        assert not store.note_ready(plans)


def test_histories_of_unassigned_specs_are_pruned_unless_busy(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        old = ("web", "old hash")
        store = RestartHistoryStore(ENV, folder, ThreadPool(1, "disk"), {KEY: refused(NO_HISTORY), old: NO_HISTORY})
        store.prune(desired_of(WEB), [], {"web"})
        assert set(store.histories) == {KEY, old}
        store.prune(desired_of(WEB), [], set())
        assert set(store.histories) == {KEY}
        store.prune(desired_of(), [container(WEB)], set())
        assert set(store.histories) == {KEY}
        store.prune(desired_of(), [], set())
        assert not store.histories
