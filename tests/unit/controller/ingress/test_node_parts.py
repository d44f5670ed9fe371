"""Ingress parts: certificates, challenges, key requests and peer routers."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.ingress.peers import MAX_PEERS, IngressServer, PeerRouters
from devopsellence.controller.model.actions import Precondition, WriteKind
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.store.record import Record
from tests.unit.controller.builders import KEYS, REF
from tests.unit.controller.ingress_builders import (
    HOST,
    WEB,
    beat,
    certificate,
    ingress,
    parts,
    peers,
    put_certificate,
    serial,
    serving_store,
    settle,
)

OTHER = "other.example.com"
TOKEN = pb.Challenge(token="t1", key_authorization="t1.thumb")
REQUEST = pb.KeyRequest(id="k1", host=HOST, recipients=["age1"])


def test_certificate_goes_to_each_node_that_serves_host_and_to_no_other() -> None:
    store = serving_store("n1", "n2")
    store.add_node("n3", "worker")
    store.set_environment("n1", "n2", "n3", latest=1)
    put_certificate(store, HOST, "aa")
    put_certificate(store, OTHER, "bb")
    settle(store)
    assert parts(store, "n1")[HOST] == pb.NodeIngress(
        node="n1",
        node_uid="uid-n1",
        organization="acme",
        project="shop",
        environment="production",
        part=HOST,
        certificate=pb.HostCertificate(serial="aa", chain_pem="chain aa", key_age="key aa"),
    )
    assert serial(store, "n2") == "aa"
    assert OTHER not in parts(store, "n1")
    assert parts(store, "n3") == {}


def test_unchanged_state_writes_nothing() -> None:
    store = serving_store("n1", "n2")
    put_certificate(store, HOST, "aa", failures=1)
    settle(store)
    put_certificate(store, HOST, "aa", failures=2, reason="the authority does not answer")
    assert store.plan().actions == []
    assert store.plan().events == []


def test_renewed_certificate_replaces_part_with_precondition() -> None:
    store = serving_store("n1")
    put_certificate(store, HOST, "aa")
    settle(store)
    generation = store.records[KEYS.assignment("n1", REF)].mod_revision
    put_certificate(store, HOST, "bb")
    planned = store.step()
    record = store.records[KEYS.certificate(REF, HOST)]
    assert [(action.kind, action.reason, action.rests_on) for action in planned.actions] == [
        (WriteKind.WRITE_PART, f"{HOST}: its certificate is bb", (Precondition(record.key, record.mod_revision),))
    ]
    assert serial(store, "n1") == "bb"
    assert store.records[KEYS.assignment("n1", REF)].mod_revision == generation


def test_certificate_comes_together_with_assignment_of_new_node() -> None:
    store = serving_store("n1")
    put_certificate(store, HOST, "aa")
    settle(store)
    store.add_node("n2", "web")
    store.set_environment("n1", "n2", latest=1)
    planned = store.step()
    assert [(action.kind, action.node) for action in planned.actions if action.node == "n2"] == [
        (WriteKind.WRITE_ASSIGNMENT, "n2"),
        (WriteKind.CLAIM_HOST, "n2"),
        (WriteKind.WRITE_PART, "n2"),
        (WriteKind.WRITE_PART, "n2"),
    ]
    assert serial(store, "n2") == "aa"


def test_challenges_go_to_all_and_request_for_key_to_one_that_is_asked() -> None:
    store = serving_store("n1", "n2")
    other = pb.Challenge(token="t0", key_authorization="t0.thumb")
    put_certificate(store, HOST, challenges=[TOKEN, other], key_request=REQUEST, key_node="n2")
    settle(store)
    first, second = parts(store, "n1")[HOST], parts(store, "n2")[HOST]
    assert list(first.challenges) == list(second.challenges) == [other, TOKEN]
    assert not first.HasField("key_request")
    assert second.key_request == REQUEST
    assert not first.HasField("certificate")


def test_finished_challenges_are_removed() -> None:
    store = serving_store("n1")
    put_certificate(store, HOST, challenges=[TOKEN], key_request=REQUEST, key_node="n1")
    settle(store)
    put_certificate(store, HOST, "aa")
    planned = store.step()
    assert [action.reason for action in planned.actions] == [
        f"{HOST}: its certificate is aa, challenges to serve: 0, no key is to be created any more"
    ]
    assert not parts(store, "n1")[HOST].challenges


@pytest.mark.parametrize("mode", [workload_pb2.Ingress.AUTO, workload_pb2.Ingress.MANUAL])
def test_deleted_certificate_is_served_until_the_next_one_if_ordered_automatically(
    mode: workload_pb2.Ingress.TlsMode.ValueType,
) -> None:
    store = serving_store("n1")
    store.deploy(2, WEB, ingress=ingress(HOST, tls_mode=mode))
    put_certificate(store, HOST, "aa")
    settle(store)
    store.delete(KEYS.certificate(REF, HOST))
    settle(store)
    if mode == workload_pb2.Ingress.MANUAL:
        # Removed on purpose: none else will come.
        assert parts(store, "n1") == {}
        return
    assert parts(store, "n1")[HOST].certificate.serial == "aa"
    put_certificate(store, HOST, challenges=[TOKEN])
    settle(store)
    assert parts(store, "n1")[HOST].certificate.serial == "aa"
    assert list(parts(store, "n1")[HOST].challenges) == [TOKEN]
    put_certificate(store, HOST, "bb")
    settle(store)
    assert parts(store, "n1")[HOST].certificate.serial == "bb"
    store.deploy(3, WEB, ingress=ingress(HOST, tls_mode=workload_pb2.Ingress.OFF))
    settle(store)
    assert parts(store, "n1") == {}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        pytest.param(workload_pb2.Ingress.AUTO, "aa", id="auto"),
        pytest.param(workload_pb2.Ingress.MANUAL, "aa", id="manual"),
        pytest.param(workload_pb2.Ingress.OFF, "", id="off"),
    ],
)
def test_certificate_gets_out_unless_tls_is_off(mode: workload_pb2.Ingress.TlsMode.ValueType, expected: str) -> None:
    store = serving_store("n1")
    put_certificate(store, HOST, "aa")
    made = ingress(HOST)
    made.tls_mode = mode
    store.deploy(2, WEB, ingress=made)
    settle(store)
    assert serial(store, "n1") == expected


def test_host_in_upper_case_is_same_host() -> None:
    store = serving_store("n1", hosts=[HOST.upper()])
    put_certificate(store, HOST, "aa")
    settle(store)
    assert serial(store, "n1") == "aa"


def test_host_that_can_be_none_keeps_no_other_from_its_certificate() -> None:
    store = serving_store("n1", hosts=["x_y.example.com:80", HOST])
    put_certificate(store, HOST, "aa")
    settle(store)
    assert serial(store, "n1") == "aa"


# What goes, and when


def test_host_that_is_not_named_any_more_is_withdrawn_once_node_knows() -> None:
    store = serving_store("n1", hosts=[HOST, OTHER])
    put_certificate(store, HOST, "aa")
    put_certificate(store, OTHER, "bb")
    settle(store)
    store.deploy(2, WEB, ingress=ingress(OTHER))
    store.converge()
    assert serial(store, "n1", HOST) == "aa"
    store.report("n1")
    planned = store.step()
    assigned = store.records[KEYS.assignment("n1", REF)]
    deletes = [action for action in planned.actions if action.kind is WriteKind.DELETE_PART]
    assert [one.rests_on for one in deletes] == [(Precondition(assigned.key, assigned.mod_revision),)]
    assert set(parts(store, "n1")) == {OTHER}


def test_parts_of_unreachable_node_are_removed_at_once() -> None:
    store = serving_store("n1", hosts=[HOST, OTHER])
    put_certificate(store, HOST, "aa")
    settle(store)
    store.deploy(2, WEB, ingress=ingress(OTHER))
    store.converge()
    store.delete(KEYS.heartbeat("n1"))
    store.converge()
    assert parts(store, "n1") == {}


def test_detached_node_keeps_all_until_its_tombstone_has_been_carried_out() -> None:
    store = serving_store("n1", "n2")
    put_certificate(store, HOST, "aa")
    settle(store)
    store.set_environment("n2", latest=1)
    store.converge()
    assert set(parts(store, "n1")) == {HOST, "+peers"}
    assert set(parts(store, "n2")) == {HOST}, "nobody is left to turn to"
    put_certificate(store, HOST, "bb")
    store.converge()
    assert (serial(store, "n1"), serial(store, "n2")) == ("aa", "bb")
    store.report("n1")
    store.converge()
    assert parts(store, "n1") == {}
    assert store.plan().actions == []


def test_deleted_environment_leaves_no_parts() -> None:
    store = serving_store("n1", "n2")
    put_certificate(store, HOST, "aa")
    settle(store)
    store.delete(KEYS.environment(REF))
    settle(store)
    assert parts(store, "n1") == parts(store, "n2") == {}
    assert KEYS.rollout(REF) not in store.records


def test_part_of_node_that_no_node_knows_is_withdrawn() -> None:
    store = serving_store("n1")
    store.put(KEYS.ingress("gone", REF, HOST), pb.NodeIngress(node="gone", part=HOST))
    store.converge()
    assert store.parts("gone") == {}


def test_node_without_its_service_keeps_nothing() -> None:
    store = serving_store("n1", "n2")
    put_certificate(store, HOST, "aa")
    settle(store)
    store.add_node("n1", "worker")
    settle(store)
    assert parts(store, "n1") == {}
    assert peers(store, "n2") == {}


def test_another_machine_of_that_name_has_it_in_its_own_name() -> None:
    store = serving_store("n1")
    put_certificate(store, HOST, "aa")
    settle(store)
    store.add_node("n1", "web", uid="another")
    store.converge()
    assert parts(store, "n1")[HOST].node_uid == "another"


# What cannot be read


def test_certificate_that_cannot_be_read_leaves_nodes_what_they_have() -> None:
    store = serving_store("n1", hosts=[HOST, OTHER])
    put_certificate(store, HOST, "aa")
    settle(store)
    store.garbage(KEYS.certificate(REF, HOST))
    put_certificate(store, OTHER, "bb")
    settle(store)
    assert (serial(store, "n1", HOST), serial(store, "n1", OTHER)) == ("aa", "bb")


def test_certificate_under_key_of_another_host_is_not_given_out() -> None:
    store = serving_store("n1", hosts=[HOST, OTHER])
    put_certificate(store, OTHER, "bb")
    store.put(KEYS.certificate(REF, HOST), certificate(OTHER, "bb"))
    settle(store)
    assert set(parts(store, "n1")) == {OTHER}


def test_part_that_cannot_be_read_is_replaced() -> None:
    store = serving_store("n1")
    put_certificate(store, HOST, "aa")
    settle(store)
    store.garbage(KEYS.ingress("n1", REF, HOST))
    store.converge()
    assert serial(store, "n1") == "aa"


def test_part_that_cannot_be_read_and_is_not_needed_goes() -> None:
    store = serving_store("n1")
    store.garbage(KEYS.ingress("n1", REF, OTHER))
    store.garbage(KEYS.ingress("n2", REF, "+peers"))
    store.converge()
    assert parts(store, "n1") == parts(store, "n2") == {}


def test_assignment_that_cannot_be_read_takes_nothing_away() -> None:
    store = serving_store("n1")
    put_certificate(store, HOST, "aa")
    settle(store)
    store.garbage(KEYS.release(REF, 1))
    store.garbage(KEYS.assignment("n1", REF))
    store.converge()
    assert serial(store, "n1") == "aa"


def test_unreadable_release_does_not_block_renewed_certificate() -> None:
    store = serving_store("n1")
    put_certificate(store, HOST, "aa")
    settle(store)
    store.garbage(KEYS.release(REF, 1))
    put_certificate(store, HOST, "bb")
    store.converge()
    assert serial(store, "n1") == "bb"


def test_environment_that_cannot_be_read_changes_nothing() -> None:
    store = serving_store("n1", "n2")
    settle(store)
    store.garbage(KEYS.environment(REF))
    store.converge()
    assert set(parts(store, "n1")) == {"+peers"}


# The others


def test_nodes_get_peer_routers() -> None:
    store = serving_store("n1", "n2", "n3")
    assert peers(store, "n1") == {"n2": "n2.internal:7444", "n3": "n3.internal:7444"}
    assert parts(store, "n1")["+peers"].peers[0].uid == "uid-n2"


def test_node_that_serves_alone_is_told_of_no_node() -> None:
    assert parts(serving_store("n1"), "n1") == {}


def test_registered_address_counts_before_what_agent_says() -> None:
    store = serving_store("n1", "n2")
    store.put(KEYS.node("n2"), pb.Node(name="n2", uid="uid-n2", labels=["web"], address="10.0.0.2"))
    store.converge()
    assert peers(store, "n1") == {"n2": "10.0.0.2:7444"}


@pytest.mark.parametrize("how", ["gone", "says nothing", "of another machine"])
def test_router_whose_agent_is_away_is_kept(how: str) -> None:
    store = serving_store("n1", "n2", "n3")
    if how == "gone":
        store.delete(KEYS.heartbeat("n2"))
    else:
        beat(store, "n2", uid="another" if how == "of another machine" else "", address="")
    planned = store.step()
    assert [action for action in planned.actions if action.kind is not WriteKind.WRITE_ROLLOUT] == []
    assert peers(store, "n1") == {"n2": "n2.internal:7444", "n3": "n3.internal:7444"}


def test_new_node_is_told_where_router_answered_last() -> None:
    store = serving_store("n1", "n2")
    store.delete(KEYS.heartbeat("n2"))
    store.add_node("n3", "web")
    store.set_environment("n1", "n2", "n3", latest=1)
    settle(store)
    assert peers(store, "n3") == {"n2": "n2.internal:7444", "n1": "n1.internal:7444"}


def test_last_known_address_is_kept() -> None:
    store = serving_store("n1", "n2", "n3")
    beat(store, "n3", address="moved.internal:7444")
    store.step(only=1)
    store.delete(KEYS.heartbeat("n3"))
    store.converge()
    assert peers(store, "n1") | peers(store, "n2") == {
        "n1": "n1.internal:7444",
        "n2": "n2.internal:7444",
        "n3": "moved.internal:7444",
    }


def test_router_of_machine_that_was_replaced_is_none() -> None:
    store = serving_store("n1", "n2")
    store.add_node("n2", "web", uid="another", alive=False)
    store.converge()
    assert peers(store, "n1") == {}


def test_node_that_is_detached_is_no_router_any_more() -> None:
    store = serving_store("n1", "n2", "n3")
    store.set_environment("n1", "n2", latest=1)
    store.step()
    assert peers(store, "n1") == {"n2": "n2.internal:7444"}


def routers(count: int) -> PeerRouters:
    views = []
    for number in range(count):
        name = f"n{number}"
        record = Record("", pb.Heartbeat(node=name, uid=name, router_address=f"{name}:7444"), None, 1, 1)
        views.append(NodeView(name, heartbeat=record))
    return PeerRouters([IngressServer(view, view.name) for view in views], views)


def test_many_peers_are_limited_evenly() -> None:
    found = routers(100)
    chosen = {f"n{number}": [one.node for one in found.near(f"n{number}")] for number in range(100)}
    assert {len(value) for value in chosen.values()} == {MAX_PEERS}
    assert all(names == sorted(names) and node not in names for node, names in chosen.items())
    named = [name for names in chosen.values() for name in names]
    assert {named.count(name) for name in chosen} == {MAX_PEERS}


def test_forwarders_of_a_node_are_those_that_have_it_as_a_peer() -> None:
    found = routers(100)
    for number in range(100):
        node = f"n{number}"
        chosen_by = [f"n{other}" for other in range(100) if node in [peer.node for peer in found.near(f"n{other}")]]
        assert found.forwarders(node) == sorted(chosen_by)


def test_node_without_a_known_router_forwards_all_the_same() -> None:
    store = serving_store("n1")
    store.add_node("n2", "web")
    store.set_environment("n1", "n2", latest=1)
    settle(store)
    assert peers(store, "n2") == {"n1": "n1.internal:7444"}
    assert list(parts(store, "n1")["+peers"].forwarders) == ["uid-n2"]
    assert not parts(store, "n1")["+peers"].peers


def test_drained_node_forwards_and_gets_nothing_from_others() -> None:
    store = serving_store("n1", "n2", "n3")
    node = pb.Node(name="n1", uid="uid-n1", labels=["web"], cordoned=True, drain=pb.Drain())
    store.put(KEYS.node("n1"), node)
    settle(store)
    assert store.assigned("n1") == []
    assert peers(store, "n1") == {name: f"{name}.internal:7444" for name in ("n2", "n3")}
    assert peers(store, "n2") == {"n3": "n3.internal:7444"}
    assert list(parts(store, "n2")["+peers"].forwarders) == ["uid-n1", "uid-n3"]
    assert not parts(store, "n1")["+peers"].forwarders


def test_forwarder_is_named_by_its_machine() -> None:
    store = serving_store("n1", "n2")
    assert list(parts(store, "n1")["+peers"].forwarders) == ["uid-n2"]
    store.add_node("n2", "web", uid="another", alive=False)
    settle(store)
    assert list(parts(store, "n1")["+peers"].forwarders) == ["another"]


def test_new_peer_changes_few_parts() -> None:
    before, after = routers(100), routers(101)
    changed = [number for number in range(100) if before.near(f"n{number}") != after.near(f"n{number}")]
    assert len(changed) == MAX_PEERS
