"""Builders for tests of the release task."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2 as pb
from tests.unit.controller.builders import Store, app, migration, service

REDIS = service("redis", "worker")
REDIS_2 = service("redis", "worker", "redis:2")


def settled_store(*more: str) -> Store:
    """n1 and n2 (and ``more``), all web and worker, have settled at release 1 of web and redis, without a task."""
    store = Store()
    names = ("n1", "n2", *more)
    for name in names:
        store.add_node(name, "web", "worker")
    store.set_environment(*names)
    store.deploy(1, REDIS, app(1))
    store.converge()
    for name in names:
        store.report(name)
    store.converge()
    return store


def preparing_store(*more: str) -> Store:
    """Release 2, with another redis, another app and a task, has just been planned."""
    store = settled_store(*more)
    store.deploy(2, REDIS_2, app(2), task=migration())
    store.converge()
    return store


def first_preparing_store() -> Store:
    """n1 and n2, all web and worker; release 1, with redis, an app and a task, has just been planned."""
    store = Store()
    for name in ("n1", "n2"):
        store.add_node(name, "web", "worker")
    store.set_environment("n1", "n2")
    store.deploy(1, REDIS, app(1), task=migration())
    store.converge()
    return store


def pinned(store: Store, name: str) -> dict[str, str]:
    assignment = store.assignment(name)
    assert assignment is not None
    return {service.name: service.image.pinned.removeprefix("sha256:") for service in assignment.services}


def task_phase(store: Store) -> str:
    return pb.TaskStatus.Phase.Name(store.task().phase)
