"""Deletion of an environment: when it is refused, and what is said."""

from __future__ import annotations

import pytest

from devopsellence.cli.environments.delete import Deletion, refusal
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "review")
GONE = Deletion(REF)
BARE = Deletion(REF, revision=7)
RUNS = Deletion(REF, revision=7, attached=("n1", "n2"), remains=frozenset({"n1", "n2"}))


@pytest.mark.parametrize(
    ("planned", "detach", "code"),
    [
        (GONE, False, "environment_unknown"),
        (GONE, True, "environment_unknown"),
        (BARE, False, ""),
        (Deletion(REF, rollout=True), False, ""),
        (Deletion(REF, counts={"secrets": 1}), False, ""),
        (RUNS, False, "environment_in_use"),
        (RUNS, True, ""),
        # Attached, and nothing was ever released.
        (Deletion(REF, revision=7, attached=("n1",)), False, "environment_in_use"),
        (Deletion(REF, revision=7, attached=("n1",), controllers=0), True, ""),
        # Detached before, and still stopping.
        (Deletion(REF, revision=7, remains=frozenset({"n1"})), False, ""),
        (Deletion(REF, revision=7, remains=frozenset({"n1"}), unreachable=("n1",)), False, "node_unreachable"),
        (Deletion(REF, revision=7, remains=frozenset({"n1"}), controllers=0), False, "no_controller"),
    ],
)
def test_environment_is_deleted_only_if_every_node_can_remove_it(planned: Deletion, detach: bool, code: str) -> None:
    refused = refusal(planned, detach=detach)
    assert (refused.code if refused else "") == code
    if refused:
        assert refused.next_actions


def test_refusal_names_every_node_and_the_way_out() -> None:
    refused = refusal(RUNS, detach=False)
    assert refused is not None
    assert [finding.message for finding in refused.findings] == ["node n1 is attached", "node n2 is attached"]
    assert refused.next_actions[0].command == "devopsellence env delete acme/shop/review --detach"


@pytest.mark.parametrize(
    ("counts", "summary"),
    [
        ({}, "no release"),
        ({"releases": 1, "secrets": 0}, "1 release"),
        ({"releases": 2, "events": 1}, "2 releases and 1 event"),
        ({"releases": 2, "secrets": 1, "certificates": 3}, "2 releases, 1 secret and 3 certificates"),
    ],
)
def test_summary_counts_what_is_lost(counts: dict[str, int], summary: str) -> None:
    assert Deletion(REF, counts=counts).summary() == summary
