"""Settings changed by hand are set back to those of the spec."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.docker.model import ContainerSettings, ContainerState
from devopsellence.nodeagent.plan.actions import ActionKind
from devopsellence.nodeagent.plan.by_hand import settings_back
from devopsellence.nodeagent.plan.container_config import update_config
from tests.unit.nodeagent.planning import container, desired_service, full_service, service

MEMORY, CPUS = 256 * 1024 * 1024, 1_500_000_000
AS_ASSIGNED = ContainerSettings(memory=MEMORY, nano_cpus=CPUS)
NO_LIMITS = service()


@pytest.mark.parametrize(
    ("spec", "settings", "reason"),
    [
        (full_service(), AS_ASSIGNED, ""),
        (full_service(), None, ""),
        (full_service(), replace(AS_ASSIGNED, engine_restarts=True), "changed by hand: restart policy"),
        (full_service(), replace(AS_ASSIGNED, memory=1), "changed by hand: memory limit"),
        (full_service(), replace(AS_ASSIGNED, memory=1, nano_cpus=1), "changed by hand: memory limit, CPU limit"),
        # An engine whose kernel has no such limits drops them.
        (full_service(), ContainerSettings(), ""),
        # Docker cannot take a limit away.
        (NO_LIMITS, AS_ASSIGNED, ""),
        (NO_LIMITS, ContainerSettings(engine_restarts=True), "changed by hand: restart policy"),
    ],
)
def test_settings_of_an_assigned_container(
    spec: workload_pb2.Service, settings: ContainerSettings | None, reason: str
) -> None:
    changed = replace(container(spec), settings=settings)
    actions = settings_back([changed], desired_service(spec))
    assert [(action.kind, action.container, action.reason) for action in actions] == (
        [(ActionKind.UPDATE, changed.id, reason)] if reason else []
    )


def test_settings_of_an_older_container() -> None:
    """Its spec is not known any more, so its limits are left alone."""
    old = replace(container(service(version="0")), settings=ContainerSettings(engine_restarts=True, memory=1))
    (action,) = settings_back([old], desired_service(full_service()))
    assert action.reason == "changed by hand: restart policy"


@pytest.mark.parametrize("state", [ContainerState.REMOVING, ContainerState.DEAD])
def test_settings_of_a_container_on_its_way_out(state: ContainerState) -> None:
    gone = replace(container(service(), state), settings=ContainerSettings(engine_restarts=True))
    assert settings_back([gone]) == ()


def test_update_config() -> None:
    assert update_config(None) == update_config(NO_LIMITS) == {"RestartPolicy": {"Name": "no"}}
    assert update_config(full_service()) == {
        "RestartPolicy": {"Name": "no"},
        "Memory": MEMORY,
        "MemorySwap": 2 * MEMORY,
        "NanoCpus": CPUS,
    }
