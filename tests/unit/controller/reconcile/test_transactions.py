"""Transactions of a plan."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import EnvironmentPlan, KeyChange, Precondition, WriteAction, WriteKind
from devopsellence.controller.reconcile.transactions import MAX_BYTES, transactions
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Delete, Put

ENVIRONMENT = Precondition("/t/environments/o/p/e", 7)


def write(number: int, *rests_on: Precondition) -> WriteAction:
    return WriteAction(
        WriteKind.WRITE_ASSIGNMENT, "why", (KeyChange(f"k{number}", number, pb.Assignment()),), f"n{number}", rests_on
    )


def test_small_plan_is_one_transaction_that_compares_all_it_rests_on() -> None:
    delete = WriteAction(
        WriteKind.DELETE_ASSIGNMENT, "why", (KeyChange("a", 3), KeyChange("s", 4)), "n1", (Precondition("nodes/n1", 0),)
    )
    [one] = transactions(EnvironmentPlan(ENVIRONMENT, [write(0), delete]), [Put("event", b"", 9)])
    assert one.compares == (
        Compare.unmodified(ENVIRONMENT.key, 7),
        Compare.unmodified("k0", 0),
        Compare.unmodified("a", 3),
        Compare.unmodified("s", 4),
        Compare.unmodified("nodes/n1", 0),
    )
    assert one.operations == (Put("k0", b"{}"), Put("event", b"", 9), Delete("a"), Delete("s"))


def test_large_plan_is_cut_and_each_part_compares_environment() -> None:
    parts = list(transactions(EnvironmentPlan(ENVIRONMENT, [write(number) for number in range(1000)]), []))
    assert len(parts) == 11
    assert [operation.key for part in parts for operation in part.operations] == [f"k{n}" for n in range(1000)]
    for part in parts:
        assert part.compares[0] == Compare.unmodified(ENVIRONMENT.key, 7)
        assert len(part.compares) < MAX_OPERATIONS, "the fence comes on top"
        assert len(part.operations) <= MAX_OPERATIONS
        assert len(part.compares) == len(part.operations) + 1


def test_action_is_never_split() -> None:
    actions = [
        WriteAction(WriteKind.DELETE_ASSIGNMENT, "why", (KeyChange(f"a{n}", 1), KeyChange(f"s{n}", 1)), f"n{n}")
        for n in range(100)
    ]
    for part in transactions(EnvironmentPlan(ENVIRONMENT, actions), []):
        keys = [operation.key for operation in part.operations]
        assert all(f"s{key[1:]}" in keys for key in keys if key.startswith("a"))


def test_events_follow_first_action() -> None:
    plan = EnvironmentPlan(ENVIRONMENT, [write(number) for number in range(150)])
    first, second = transactions(plan, [Put("e1", b""), Put("e2", b"")])
    assert [operation.key for operation in first.operations][:4] == ["k0", "e1", "e2", "k1"]
    assert "e1" not in [operation.key for operation in second.operations]


def test_no_actions_are_no_transactions_whatever_there_is_to_tell() -> None:
    assert list(transactions(EnvironmentPlan(ENVIRONMENT), [Put("e1", b"")])) == []


def test_plan_of_large_assignments_is_cut_before_etcd_would_refuse_it() -> None:
    large = pb.Assignment(secrets=[pb.SealedSecret(age="x" * 300_000)])
    actions = [
        WriteAction(WriteKind.WRITE_ASSIGNMENT, "why", (KeyChange(f"k{n}", n, large),), f"n{n}") for n in range(7)
    ]
    parts = list(transactions(EnvironmentPlan(ENVIRONMENT, actions), []))
    assert [len(part.operations) for part in parts] == [3, 3, 1]
    huge = KeyChange("k", 0, pb.Assignment(secrets=[pb.SealedSecret(age="x" * 2 * MAX_BYTES)]))
    [only] = transactions(
        EnvironmentPlan(ENVIRONMENT, [WriteAction(WriteKind.WRITE_ASSIGNMENT, "why", (huge,), "n")]), []
    )
    assert len(only.operations) == 1
