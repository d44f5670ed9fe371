"""Units for the tree keep all that the units for a virtual environment have, and name the version."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from deploy.bundle.paths import MOUNT_POINTS
from deploy.bundle.units import UnknownUnit, for_bundle
from tests.support.project import PROJECT
from tests.unit.project.test_units import settings

UNITS: Final = sorted((PROJECT / "deploy").glob("*/*.service"))
TREE: Final = "/opt/devopsellence/1.2.3"
#: Settings whose values name paths, or that only the bundle has.
CHANGED: Final = {"ExecStart", "ReadWritePaths"}
ADDED: Final = {"RootDirectory", "MountAPIVFS", "BindReadOnlyPaths", "BindPaths"}
EXPECTED: Final = {
    "devopsellence-agent": (
        "/usr/bin/devopsellence-agent $DEVOPSELLENCE_AGENT_ARGUMENTS",
        "/run /etc:/host/etc -/var/lib/docker:/var/lib/docker:norbind",
        ["/etc/devopsellence -/run/xtables.lock /var/lib/devopsellence"],
    ),
    # systemd binds the folders of a dynamic user, and the credentials.
    "devopsellence-controller": (
        "/usr/bin/devopsellence-controller",
        "/run /etc:/host/etc /etc/devopsellence-controller",
        None,
    ),
    "devopsellence-etcd": ("/usr/bin/etcd", "/run /etc:/host/etc /etc/etcd/devopsellence", ["/var/lib/etcd"]),
    "devopsellence-etcd-renew": (
        "/usr/bin/devopsellence-etcd-renew",
        "/run /etc:/host/etc /etc/devopsellence-controller",
        ["/etc/etcd/devopsellence"],
    ),
    "devopsellence-etcd-snapshot": (
        "/usr/lib/devopsellence/etcd/etcd.sh snapshot /var/backups/devopsellence-etcd",
        "/run /etc:/host/etc /etc/etcd/devopsellence",
        ["/var/backups"],
    ),
}


@pytest.fixture(params=UNITS, ids=lambda unit: unit.stem)
def unit(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def bundled(unit: Path, tmp_path: Path) -> Path:
    """The unit for the tree of version 1.2.3."""
    result = tmp_path / unit.name
    result.write_text(for_bundle(unit.name, unit.read_text(), "1.2.3"))
    return result


def test_unit_keeps_every_restriction(unit: Path, bundled: Path) -> None:
    before, after = settings(unit), settings(bundled)
    assert {name: value for name, value in after.items() if name not in CHANGED | ADDED} == {
        name: value for name, value in before.items() if name not in CHANGED
    }


def test_unit_runs_in_the_tree_of_its_version(unit: Path, bundled: Path) -> None:
    found = settings(bundled)
    command, read, written = EXPECTED[unit.stem]
    assert found["RootDirectory"] == [TREE]
    assert found["MountAPIVFS"] == ["true"]
    assert found["ExecStart"][0].startswith(command)
    assert found["BindReadOnlyPaths"] == [read]
    assert found.get("BindPaths") == written
    assert "ReadWritePaths" not in found, "paths outside of the tree"


def test_unit_binds_no_file_that_is_replaced_and_no_folder_without_a_place(bundled: Path) -> None:
    found = settings(bundled)
    words = " ".join([*found["BindReadOnlyPaths"], *found.get("BindPaths", [])]).split()
    targets = [(word.lstrip("-").split(":") * 2)[1] for word in words]
    # Below /run, and never made anew: iptables locks it.
    targets.remove("/run/xtables.lock") if "/run/xtables.lock" in targets else None
    assert [target for target in targets if not target.startswith(MOUNT_POINTS)] == []


def test_unit_leaves_no_path_of_a_virtual_environment(bundled: Path) -> None:
    text = bundled.read_text()
    assert "/opt/devopsellence/bin" not in text
    assert "/usr/local/lib" not in text
    assert "\n\n[Install]\n" in text or "[Install]" not in text


def test_condition_is_judged_outside_of_the_tree() -> None:
    name = "devopsellence-etcd-renew.service"
    text = for_bundle(name, (PROJECT / "deploy/etcd" / name).read_text(), "1.2.3")
    assert f"\nConditionPathExists={TREE}/usr/bin/devopsellence-etcd-renew\n" in text


def test_timer_stays_as_it_is() -> None:
    assert for_bundle("devopsellence-etcd-renew.timer", "[Timer]\n", "1.2.3") == "[Timer]\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("devopsellence-new.service", "[Unit]\n[Service]\n", id="not listed"),
        pytest.param("devopsellence-agent.service", "[Unit]\n", id="no section"),
    ],
)
def test_unknown_unit_is_refused(name: str, text: str) -> None:
    with pytest.raises(UnknownUnit, match=name):
        for_bundle(name, text, "1.2.3")
