"""Ties between nodes and environments, both ways."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devopsellence.controller.cache.node_index import NodeIndex, NodeTie
from devopsellence.store.keys import EnvironmentRef

ENVIRONMENTS = [EnvironmentRef("o", "p", name) for name in ("a", "b", "c")]
NODES = ["n1", "n2", "n3"]


def test_attached_node_is_tied_both_ways() -> None:
    index = NodeIndex()
    index.attach(ENVIRONMENTS[0], ["n2", "n1"])
    assert index.nodes_of(ENVIRONMENTS[0]) == ["n1", "n2"]
    assert index.environments_of("n1") == [ENVIRONMENTS[0]]


def test_detached_node_stays_tied_as_long_as_its_assignment_is_there() -> None:
    index = NodeIndex()
    index.attach(ENVIRONMENTS[0], ["n1"])
    index.set(ENVIRONMENTS[0], "n1", NodeTie.ASSIGNMENT, present=True)
    index.attach(ENVIRONMENTS[0], [])
    assert index.nodes_of(ENVIRONMENTS[0]) == ["n1"]
    index.set(ENVIRONMENTS[0], "n1", NodeTie.ASSIGNMENT, present=False)
    assert index.nodes_of(ENVIRONMENTS[0]) == []
    assert index.environments() == []
    assert index.environments_of("n1") == []


operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(ENVIRONMENTS), st.sets(st.sampled_from(NODES))),
        st.tuples(
            st.sampled_from(ENVIRONMENTS),
            st.sampled_from(NODES),
            st.sampled_from([NodeTie.ASSIGNMENT, NodeTie.STATUS, NodeTie.INGRESS]),
            st.booleans(),
        ),
    ),
    max_size=30,
)


@given(operations)
def test_both_directions_agree_with_plain_set_of_ties(steps: list[tuple[object, ...]]) -> None:
    index = NodeIndex()
    model: set[tuple[EnvironmentRef, str, NodeTie]] = set()
    for step in steps:
        ref = step[0]
        assert isinstance(ref, EnvironmentRef)
        if isinstance(step[1], set):
            index.attach(ref, step[1])
            model = {tie for tie in model if tie[0] != ref or tie[2] is not NodeTie.ATTACHED}
            model |= {(ref, name, NodeTie.ATTACHED) for name in step[1]}
            continue
        name, tie, present = step[1], step[2], step[3]
        assert isinstance(name, str)
        assert isinstance(tie, NodeTie)
        index.set(ref, name, tie, present=bool(present))
        model.discard((ref, name, tie))
        if present:
            model.add((ref, name, tie))
    for ref in ENVIRONMENTS:
        assert index.nodes_of(ref) == sorted({tie[1] for tie in model if tie[0] == ref})
        assert index.count_of(ref) == len(index.nodes_of(ref))
    for name in NODES:
        assert index.environments_of(name) == sorted({tie[0] for tie in model if tie[1] == name})
    assert index.environments() == sorted({tie[0] for tie in model})
