"""Systemd units: no core dumps, and no more rights than each program needs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.support.project import PROJECT

UNITS: Final = sorted((PROJECT / "deploy").rglob("*.service"))
SWITCHES: Final = (
    *("LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges", "PrivateDevices", "PrivateTmp"),
    *("ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules"),
    *("RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"),
)
ALWAYS: Final = {
    "LimitCORE": ["0"],
    "UMask": ["0077"],
    **{switch: ["true"] for switch in SWITCHES},
    "ProtectSystem": ["strict"],
    "SystemCallArchitectures": ["native"],
}
CAPABILITIES: Final = {
    "devopsellence-agent": {
        *("CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"),
        "CAP_SYS_PTRACE",
    },
    "devopsellence-controller": set(),
    "devopsellence-etcd": set(),
    "devopsellence-etcd-renew": {"CAP_CHOWN", "CAP_DAC_OVERRIDE"},
    "devopsellence-etcd-snapshot": {"CAP_DAC_OVERRIDE"},
}


def settings(unit: Path) -> dict[str, list[str]]:
    """Return all values of each setting of the section [Service]."""
    found: dict[str, list[str]] = {}
    _, _, service = unit.read_text().partition("[Service]\n")
    for line in service.partition("\n[")[0].replace("\\\n", " ").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_has_the_restrictions_of_all(unit: Path) -> None:
    found = settings(unit)
    assert {name: found.get(name) for name in ALWAYS} == ALWAYS
    assert "@system-service" in found["SystemCallFilter"]
    assert found["ProtectHome"] in (["true"], ["read-only"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_has_only_the_capabilities_that_it_needs(unit: Path) -> None:
    (capabilities,) = settings(unit)["CapabilityBoundingSet"]
    assert set(capabilities.split()) == CAPABILITIES[unit.stem]


def test_agent_can_set_what_it_sets_in_the_kernel() -> None:
    assert "ProtectKernelTunables" not in settings(PROJECT / "deploy/systemd/devopsellence-agent.service")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_that_restarts_never_gives_up(unit: Path) -> None:
    if "Restart" in settings(unit):
        assert "\nStartLimitIntervalSec=0\n" in unit.read_text().partition("[Service]\n")[0]
