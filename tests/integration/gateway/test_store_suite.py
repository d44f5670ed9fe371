"""The store's own tests through the gateway, with a controller's certificate: the client notices no difference.

Chosen are the tests that need nothing but a connection; those that cut, pause or restart etcd are about the connection.
"""

from __future__ import annotations

import inspect

import pytest

from devopsellence.store.settings import Settings
from tests.integration.store import test_election, test_etcd, test_informer, test_lease, test_watch
from tests.support.gateway import RunningGateway

pytestmark = pytest.mark.etcd

_PROVIDED = {"etcd", "settings", "monkeypatch"}


@pytest.fixture
def settings(gateway: RunningGateway) -> Settings:
    return gateway.controller()


for _module in (test_election, test_etcd, test_informer, test_lease, test_watch):
    for _name, _test in inspect.getmembers(_module, inspect.iscoroutinefunction):
        _needed = set(inspect.signature(_test).parameters)
        if _name.startswith("test_") and _needed & {"etcd", "settings"} and _needed <= _PROVIDED:
            globals()[f"{_name}_through_the_gateway"] = _test
