"""Security of containers: settings for the engine, and defaults that a container does not have yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.docker.model import ContainerSettings
from devopsellence.nodeagent.plan.container_config import service_container_config, task_container_config
from devopsellence.nodeagent.plan.security import GENERATION, host_config, pending_defaults
from tests.unit.nodeagent.planning import desired_of, service

ALL = ("security.new_privileges: false", "security.pids_limit: 4096", "security.cap_add: []")
OLD = ContainerSettings()


def secured(**settings: object) -> workload_pb2.Service:
    spec = service()
    spec.security.MergeFrom(workload_pb2.Security(**settings))  # type: ignore[arg-type]
    return spec


def test_defaults_of_a_container() -> None:
    expected = {"SecurityOpt": ["no-new-privileges"], "PidsLimit": 4096, "CapDrop": ["NET_RAW"]}
    assert host_config(service()) == expected
    goal = desired_of(service())
    assert expected.items() <= service_container_config(goal.services["web"], goal, {})["HostConfig"].items()
    task = workload_pb2.Task(name="migrate", service="web")
    config = task_container_config(goal.services["web"], goal, task, {}, one_off=True)
    assert expected.items() <= config["HostConfig"].items()
    assert config["Labels"]["devopsellence.defaults"] == str(GENERATION)


@pytest.mark.parametrize(
    ("spec", "changed"),
    [
        (secured(new_privileges=True), {"SecurityOpt": ["no-new-privileges=false"]}),
        (secured(new_privileges=False), {}),
        (secured(pids_limit=7), {"PidsLimit": 7}),
        (secured(cap_add=["NET_RAW"]), {"CapDrop": None}),
        (secured(cap_add=["SYS_ADMIN"]), {}),
    ],
)
def test_settings_of_a_service_override_the_defaults(spec: workload_pb2.Service, changed: dict[str, object]) -> None:
    expected = {key: value for key, value in {**host_config(service()), **changed}.items() if value is not None}
    assert host_config(spec) == expected


@pytest.mark.parametrize(
    ("spec", "settings", "pending"),
    [
        (service(), OLD, ALL),
        (service(), None, ()),
        (service(), ContainerSettings(pids=4096, new_privileges=False, net_raw=False), ()),
        (service(), ContainerSettings(defaults=GENERATION), ()),
        (service(), ContainerSettings(defaults=GENERATION + 1), ()),
        (service(), ContainerSettings(pids=4096), (ALL[0], ALL[2])),
        (service(), ContainerSettings(pids=100, net_raw=False), ALL[:2]),
        (secured(new_privileges=True), OLD, ALL[1:]),
        (secured(pids_limit=10), OLD, (ALL[0], ALL[2])),
        (secured(cap_add=["NET_RAW"]), OLD, ALL[:2]),
    ],
)
def test_pending_defaults(
    spec: workload_pb2.Service, settings: ContainerSettings | None, pending: tuple[str, ...]
) -> None:
    assert pending_defaults(spec, settings) == pending


@pytest.mark.parametrize("order", [list, lambda names: names[::-1]])
def test_capabilities_have_no_order(order: Callable[[list[str]], list[str]]) -> None:
    goal = desired_of(secured(cap_add=order(["NET_RAW", "X"])))
    assert goal.services["web"].hash == desired_of(secured(cap_add=["X", "NET_RAW", "X"])).services["web"].hash
