"""Claims of hosts within whole plans: who gets a host, and when it is given up."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import WriteKind
from devopsellence.store.keys import PEERS, EnvironmentRef
from tests.unit.controller.builders import KEYS, REF, Store
from tests.unit.controller.ingress_builders import HOST, WEB, ingress, serving_store, settle

OTHER_HOST = "other.example.com"
OTHER = EnvironmentRef("acme", "blog", "production")


def claim(host: str, by: EnvironmentRef = OTHER, node: str = "n1") -> pb.HostClaim:
    return pb.HostClaim(
        node=node, host=host, organization=by.organization, project=by.project, environment=by.environment
    )


def claimed(store: Store, node: str = "n1") -> dict[str, str]:
    """Return the holders of the hosts on a node."""
    found = {}
    for host, record in store.claims(node).items():
        assert record.message is not None
        found[host] = record.message.project
    return found


def told(store: Store) -> tuple[list[str], dict[str, str]]:
    """Return the hosts that n1 is told that the environment holds, and those of others."""
    record = store.parts("n1").get(PEERS)
    part = record.message if record is not None and record.message is not None else pb.NodeIngress()
    return list(part.held_hosts), dict(part.taken_hosts)


def test_host_is_claimed_on_each_attached_node() -> None:
    store = serving_store("n1", "n2")
    store.add_node("n3", "worker")
    store.set_environment("n1", "n2", "n3", latest=1)
    settle(store)
    assert claimed(store, "n1") == claimed(store, "n2") == claimed(store, "n3") == {HOST: "shop"}
    assert told(store) == ([HOST], {})
    assert store.plan().actions == []


def test_host_of_another_environment_is_not_taken_and_the_others_go_on() -> None:
    store = Store()
    store.put(KEYS.host_claim("n1", HOST), claim(HOST))
    store.add_node("n1", "web")
    store.set_environment("n1")
    store.deploy(1, WEB, ingress=ingress(HOST, OTHER_HOST))
    settle(store)
    assert claimed(store) == {HOST: "blog", OTHER_HOST: "shop"}
    assert told(store) == ([OTHER_HOST], {HOST: "acme/blog/production"})
    store.delete(KEYS.host_claim("n1", HOST))
    settle(store)
    assert claimed(store) == {HOST: "shop", OTHER_HOST: "shop"}
    assert told(store) == ([HOST, OTHER_HOST], {})


def test_host_is_kept_until_the_release_without_it_has_settled_for_good() -> None:
    store = serving_store("n1")
    store.deploy(2, WEB)
    store.converge()
    store.report("n1")
    store.converge()
    rollout = pb.Rollout()
    rollout.CopyFrom(store.rollout())
    assert store.phase() == "SETTLED"
    rollout.provisional = True
    store.put(KEYS.rollout(REF), rollout)
    assert WriteKind.RELEASE_HOST not in [action.kind for action in store.plan().actions]
    rollout = pb.Rollout()
    rollout.CopyFrom(store.rollout())
    rollout.provisional = False
    store.put(KEYS.rollout(REF), rollout)
    settle(store)
    assert claimed(store) == {}


def test_node_is_told_before_a_claim_is_deleted() -> None:
    store = serving_store("n1", hosts=[HOST, OTHER_HOST])
    store.deploy(2, WEB, ingress=ingress(HOST))
    store.converge()
    store.report("n1")
    while told(store) == ([HOST, OTHER_HOST], {}):
        assert WriteKind.RELEASE_HOST not in [action.kind for action in store.step(only=1).actions]
    assert claimed(store) == {HOST: "shop", OTHER_HOST: "shop"}
    store.converge()
    assert claimed(store) == {HOST: "shop"}
    assert told(store) == ([HOST], {})


def test_detached_node_keeps_its_claim_until_it_has_removed_what_it_ran() -> None:
    store = serving_store("n1", "n2")
    store.set_environment("n2", latest=1)
    store.converge()
    assert claimed(store) == {HOST: "shop"}
    store.report("n1")
    store.converge()
    assert claimed(store) == {}
    assert claimed(store, "n2") == {HOST: "shop"}


def test_deleted_environment_gives_everything_up() -> None:
    store = serving_store("n1", "n2")
    store.delete(KEYS.environment(REF))
    store.converge()
    assert claimed(store) == {HOST: "shop"}
    for name in ("n1", "n2"):
        store.report(name)
    store.converge()
    assert claimed(store) == claimed(store, "n2") == {}


def test_release_that_cannot_be_read_gives_nothing_up() -> None:
    store = serving_store("n1")
    store.garbage(KEYS.release(REF, 2))
    store.set_environment("n1", latest=2)
    store.converge()
    assert claimed(store) == {HOST: "shop"}


@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_claim_lost_by_hand_is_written_again_for_its_holder(how: str) -> None:
    store = serving_store("n1")
    part = store.parts("n1")[PEERS]
    if how == "deleted":
        store.delete(KEYS.host_claim("n1", HOST))
    else:
        store.put(KEYS.host_claim("n1", HOST), claim("not.this.host"))
    planned = store.step()
    assert [(action.kind, action.warning) for action in planned.actions] == [(WriteKind.CLAIM_HOST, True)]
    assert claimed(store) == {HOST: "shop"}
    assert store.parts("n1")[PEERS] == part
    assert store.plan().actions == []


def test_claim_of_another_environment_that_cannot_be_read_is_left_alone() -> None:
    store = Store()
    store.add_node("n1", "web")
    store.set_environment("n1")
    store.put(KEYS.host_claim("n1", HOST), claim(HOST))
    store.deploy(1, WEB, ingress=ingress(HOST))
    settle(store)
    store.garbage(KEYS.host_claim("n1", HOST))
    assert store.plan().actions == []
    assert told(store) == ([], {HOST: "acme/blog/production"})
