"""One bed for all tests of a module, and one app on it.

Every test begins and ends with a bed that is whole: what it cuts, kills or pauses is brought back, also when it fails.
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
    """The app, deployed on all hosts of a bed of its own."""
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
    """The app, on a bed on which nothing is amiss; the same afterwards."""
    print(f"logs: {shared.bed.logs}")  # noqa: T201 - pytest shows it with a failure
    shared.bed.mend()
    nothing_amiss(shared.bed)
    yield shared
    shared.bed.mend()
    nothing_amiss(shared.bed)


@pytest.fixture
def bed(app: App) -> Bed:
    return app.bed
