"""Bed for all tests of a module, with an app.

Every test begins and ends with a healthy bed: all cuts, pauses and kills are undone, also after a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster.app import App
from tests.support.cluster.audit import nothing_amiss
from tests.support.cluster.bed import Bed
from tests.support.host import need_host
from tests.support.need import need_docker, need_etcd


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """App deployed on all hosts of the module's bed."""
    need_host()
    need_etcd()
    need_docker()
    with Bed(tmp_path_factory.mktemp("bed")) as bed:
        app = App(bed, tmp_path_factory.mktemp("app"), "shop")
        app.attach(*bed.hosts)
        app.deploy("first")
        yield app


@pytest.fixture
def app(shared: App) -> Iterator[App]:
    """App on a healthy bed; the audit passes before and after the test."""
    print(f"logs: {shared.bed.logs}")  # noqa: T201 - pytest shows it with a failure
    shared.bed.mend()
    nothing_amiss(shared.bed)
    yield shared
    shared.bed.mend()
    nothing_amiss(shared.bed)


@pytest.fixture
def bed(app: App) -> Bed:
    return app.bed
