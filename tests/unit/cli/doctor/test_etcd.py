"""Results for gateways and the members of etcd."""

from __future__ import annotations

import pytest

from devopsellence.cli.doctor.etcd import member_results
from devopsellence.store.errors import StoreError, Unavailable
from devopsellence.store.types import Member

MIB = 1024**2
A, B, C = "10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"


def member(number: int, **values: object) -> Member:
    said = {"version": "3.5.33", "cluster_id": 7, "alarms": (), "id": number, "leader": 2, "size": MIB, "used": MIB}
    return Member(**{**said, **values})  # type: ignore[arg-type]


def codes(found: dict[str, Member | StoreError]) -> list[tuple[str, str, str]]:
    return [(each.name, each.severity, each.code) for each in member_results(found)[1:]]


def test_healthy_members_are_a_single_result() -> None:
    (check,) = member_results({A: member(1), B: member(2), C: member(3)})
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
    ],
)
def test_member_problem_is_reported_once(what: Member | StoreError, expected: tuple[str, str, str]) -> None:
    found: dict[str, Member | StoreError] = {A: member(1), B: member(2), C: what}
    assert codes(found) == [expected]
    assert all(check.next_actions for check in member_results(found)[1:])


def test_alarm_of_all_members_is_reported_once() -> None:
    assert codes({A: member(1, alarms=("NOSPACE",)), B: member(2, alarms=("NOSPACE",))}) == [
        ("etcd alarm", "error", "etcd_no_space")
    ]


def test_used_space_cannot_be_released() -> None:
    loose, tight = (
        member_results({A: member(2, size=1900 * MIB, used=used * MIB)})[1].next_actions for used in (100, 1800)
    )
    assert "defrag" in loose[0].command
    assert all("defrag" not in action.command for action in tight)


def test_unreachable_members_are_reported() -> None:
    with pytest.raises(Unavailable):
        member_results({A: Unavailable("x"), B: Unavailable("y")})


def test_gateways_are_named_and_etcd_behind_them_is_reported_once() -> None:
    gateways = (A, B, C)
    (check,) = member_results({A: member(1), B: member(2)}, gateways)
    assert check.message == f"3.5.33 behind the gateways {A}, {B}; 1 of 2048 MiB"
    answers: dict[str, Member | StoreError] = {A: member(1, size=1700 * MIB), B: member(2, size=1700 * MIB)}
    answers[C] = Unavailable(f"status: etcd does not answer at {C}")
    away, full = member_results(answers, gateways)[1:]
    assert (away.name, away.code, away.message) == (
        f"gateway {C}",
        "gateway_away",
        f"the gateway at {C} does not answer",
    )
    assert "devopsellence-controller" in away.next_actions[0].command
    assert (full.name, full.code) == ("etcd", "etcd_nearly_full")
    alone = member_results({A: member(1, leader=0)}, gateways)
    assert [(check.name, check.code) for check in alone] == [("etcd", ""), ("etcd", "etcd_no_leader")]
