"""Times since when nodes are unreachable."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.reachability import UnreachableSince
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.store.record import Record
from tests.unit.controller.builders import REF, moment, node


def snapshot(*reachable: bool) -> EnvironmentSnapshot:
    beat = Record("/t/h", pb.Heartbeat(uid="uid-n0"), None, 1, 1)
    views = [
        NodeView(f"n{number}", Record("/t/n", node("n0"), None, 1, 1), beat if there else None)
        for number, there in enumerate(reachable)
    ]
    return EnvironmentSnapshot(REF, nodes=views)


def test_first_sighting_is_kept_until_the_node_returns() -> None:
    since = UnreachableSince()
    assert since.note(snapshot(True, False), moment(1)) == {"n1": 1001}
    assert since.note(snapshot(True, False), moment(5)) == {"n1": 1001}
    assert since.note(snapshot(True, True), moment(6)) == {}
    assert since.note(snapshot(True, False), moment(9)) == {"n1": 1009}
