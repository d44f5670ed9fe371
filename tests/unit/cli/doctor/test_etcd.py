"""Results for the members of etcd."""

from __future__ import annotations

import pytest

from devopsellence.cli.doctor.etcd import keeps_grants, member_results
from devopsellence.store.errors import StoreError, Unavailable
from devopsellence.store.types import Member

MIB = 1024**2
A, B, C = "10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"


def member(number: int, **values: object) -> Member:
    said = {"version": "3.5.33", "cluster_id": 7, "alarms": (), "id": number, "leader": 2, "size": MIB, "used": MIB}
    return Member(**{**said, **values})  # type: ignore[arg-type]


def codes(found: dict[str, Member | StoreError], *, grants: bool = True) -> list[tuple[str, str, str]]:
    return [(each.name, each.severity, each.code) for each in member_results(found, grants=grants)[1:]]


def test_healthy_members_are_a_single_result() -> None:
    (check,) = member_results({A: member(1), B: member(2), C: member(3)}, grants=True)
    assert (check.name, check.severity) == ("etcd", "ok")
    assert check.message == f"3.5.33 at {A}, {B}, {C}; {B} is the leader; 1 of 2048 MiB"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        pytest.param(Unavailable("x"), (f"etcd {C}", "error", "etcd_member_away"), id="one does not answer"),
        pytest.param(member(3, leader=0), (f"etcd {C}", "error", "etcd_no_leader"), id="one has lost the others"),
        pytest.param(member(3, cluster_id=8), ("etcd cluster", "error", "etcd_other_cluster"), id="another cluster"),
        pytest.param(member(3, alarms=("NOSPACE",)), ("etcd alarm", "error", "etcd_no_space"), id="NOSPACE"),
        pytest.param(member(3, alarms=("CORRUPT",)), ("etcd alarm", "error", "etcd_alarm"), id="CORRUPT"),
        pytest.param(member(3, size=1700 * MIB), (f"etcd {C}", "warning", "etcd_nearly_full"), id="nearly full"),
        pytest.param(
            member(3, size=90 * MIB, quota=100 * MIB), (f"etcd {C}", "warning", "etcd_nearly_full"), id="its own quota"
        ),
        pytest.param(member(3, version="3.5.1"), ("etcd version", "warning", "etcd_version"), id="an old version"),
    ],
)
def test_member_problem_is_reported_once(what: Member | StoreError, expected: tuple[str, str, str]) -> None:
    found: dict[str, Member | StoreError] = {A: member(1), B: member(2), C: what}
    assert codes(found) == [expected]
    assert all(check.next_actions for check in member_results(found, grants=True)[1:])


def test_alarm_of_all_members_is_reported_once() -> None:
    assert codes({A: member(1, alarms=("NOSPACE",)), B: member(2, alarms=("NOSPACE",))}) == [
        ("etcd alarm", "error", "etcd_no_space")
    ]


def test_used_space_cannot_be_released() -> None:
    loose, tight = (
        member_results({A: member(2, size=1900 * MIB, used=used * MIB)}, grants=True)[1].next_actions
        for used in (100, 1800)
    )
    assert "defrag" in loose[0].command
    assert all("defrag" not in action.command for action in tight)


def test_version_matters_only_with_access_control() -> None:
    assert codes({A: member(2, version="3.4.23")}, grants=False) == []


def test_unreachable_members_are_reported() -> None:
    with pytest.raises(Unavailable):
        member_results({A: Unavailable("x"), B: Unavailable("y")}, grants=True)


@pytest.mark.parametrize(
    ("version", "keeps"),
    [
        ("3.4.23", False),
        ("3.4.99", False),
        ("3.5.1", False),
        ("3.5.32", False),
        ("3.5.33", True),
        ("3.6.13", False),
        ("3.6.14", True),
        ("3.6.14-rc.1", True),
        ("3.7.0", True),
        ("4.0.0", True),
        ("unknown", False),
    ],
)
def test_versions_enforcing_grants(version: str, *, keeps: bool) -> None:
    assert keeps_grants(version) is keeps
