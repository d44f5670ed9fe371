"""Fixtures of the tests of the controller: controllers c0, c1, … as processes, and an environment driven by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.controller import ControllerProcess, EnvironmentDriver, StartController


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[StartController]:
    """Starts controllers c0, c1, …, which are gone when the test is over."""
    started: list[ControllerProcess] = []

    def start_one(*arguments: str) -> ControllerProcess:
        log = tmp_path / f"controller{len(started)}.log"
        # What is said last counts.
        started.append(ControllerProcess(settings, log, "--identity", f"c{len(started)}", *arguments))
        return started[-1]

    yield start_one
    for process in started:
        process.end()


@pytest.fixture
def environment(etcd: Etcd) -> EnvironmentDriver:
    return EnvironmentDriver(etcd)
