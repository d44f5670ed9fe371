"""Views that are kept equal those that are made anew; where nothing has changed they are the same objects."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.cache.node_index import NodeIndex, NodeTie
from devopsellence.controller.cache.node_views import NodeViews
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.record import Record

REF = EnvironmentRef("acme", "shop", "production")
OTHER = EnvironmentRef("acme", "shop", "staging")
NODES = ("n1", "n2", "n3")


class Store:
    """Nodes and ties that change, and what the caches tell of it."""

    def __init__(self) -> None:
        self.revision = 0
        self.nodes: dict[str, Record[pb.Node]] = {}
        self.index = NodeIndex()
        self.built = 0
        self.views = NodeViews(self.build)

    def build(self, ref: EnvironmentRef, name: str) -> NodeView:
        self.built += 1
        return self.fresh(name)

    def fresh(self, name: str) -> NodeView:
        return NodeView(name, self.nodes.get(name))

    def change(self, name: str) -> None:
        self.revision += 1
        self.nodes[name] = Record(name, pb.Node(name=name), None, 1, self.revision)
        for ref in self.index.environments_of(name):
            self.views.touch(ref, name)

    def tie(self, ref: EnvironmentRef, name: str, *, present: bool) -> None:
        self.index.set(ref, name, NodeTie.ATTACHED, present=present)

    def observe(self, ref: EnvironmentRef) -> list[NodeView]:
        return list(self.views.of(ref, self.index.nodes_of(ref)))


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(NODES), st.just(REF)),
        st.tuples(st.sampled_from(["tie", "untie"]), st.sampled_from(NODES), st.sampled_from([REF, OTHER])),
        st.tuples(st.just("observe"), st.just(""), st.sampled_from([REF, OTHER])),
    )
)


@given(CHANGES)
def test_kept_views_equal_fresh_ones(changes: list[tuple[str, str, EnvironmentRef]]) -> None:
    store = Store()
    for what, name, ref in [*changes, ("observe", "", REF), ("observe", "", OTHER)]:
        if what == "change":
            store.change(name)
        elif what == "observe":
            assert store.observe(ref) == [store.fresh(each) for each in sorted(store.index.nodes_of(ref))]
        else:
            store.tie(ref, name, present=what == "tie")


def test_only_what_has_changed_is_made_anew() -> None:
    store = Store()
    for name in NODES:
        store.change(name)
        store.tie(REF, name, present=True)
    first = store.observe(REF)
    store.change("n2")
    second = store.observe(REF)
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, False, True]
    assert store.built == len(NODES) + 1
