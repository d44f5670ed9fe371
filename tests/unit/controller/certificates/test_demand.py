"""Demand for certificates, read from a snapshot."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.certificates.demand import (
    DEFAULT_DIRECTORY,
    AcmeAccount,
    CertificateDemand,
    CertificateDemands,
    concerned,
    demands,
)
from tests.unit.controller.builders import KEYS, REF, Store
from tests.unit.controller.certificate_builders import recipient
from tests.unit.controller.ingress_builders import HOST, WEB, ingress, put_certificate, serving_store, settle

OTHER = "other.example.com"


def found(store: Store) -> CertificateDemands:
    all_demands = demands(store.snapshot())
    assert all_demands is not None
    return all_demands


def of(store: Store, host: str = HOST) -> CertificateDemand:
    return found(store).hosts[host]


def beat(store: Store, name: str, key: str, uid: str = "") -> None:
    store.put(KEYS.heartbeat(name), pb.Heartbeat(node=name, uid=uid or f"uid-{name}", age_recipient=key))


def test_no_ingress_means_no_demand() -> None:
    store = Store()
    store.add_node("n1", "web")
    store.set_environment("n1")
    store.deploy(1, WEB)
    assert not concerned(store.snapshot())
    assert concerned(serving_store("n1").snapshot())


def test_all_nodes_with_ingress_serve_all_of_its_hosts() -> None:
    store = serving_store("n2", "n1", hosts=[HOST, OTHER])
    assert list(found(store).hosts) == [HOST, OTHER]
    for host in (HOST, OTHER):
        one = of(store, host)
        assert [server.node for server in one.servers] == ["n1", "n2"]
        assert one.account == AcmeAccount(DEFAULT_DIRECTORY, "")
        assert one.named


def test_nodes_at_two_releases_use_account_of_newer_release() -> None:
    store = serving_store("n1", "n2")
    newer = ingress(HOST, OTHER, tls_email="ops@example.com", tls_ca_directory_url="https://acme.example.com/dir")
    store.deploy(2, WEB, ingress=newer, parallel="1")
    store.step()
    assert {name: found_.release for name in ("n1", "n2") if (found_ := store.assignment(name))} == {"n1": 2, "n2": 1}
    assert [server.node for server in of(store).servers] == ["n1", "n2"]
    assert [server.node for server in of(store, OTHER).servers] == ["n1"]
    assert of(store).account == AcmeAccount("https://acme.example.com/dir", "ops@example.com")


@pytest.mark.parametrize("mode", [workload_pb2.Ingress.OFF, workload_pb2.Ingress.MANUAL], ids=["off", "manual"])
def test_other_modes_order_nothing(mode: workload_pb2.Ingress.TlsMode.ValueType) -> None:
    store = serving_store("n1")
    store.deploy(2, WEB, ingress=ingress(HOST, tls_mode=mode))
    settle(store)
    assert of(store).account is None
    assert of(store).named


def test_status_counts_only_for_its_uid() -> None:
    store = serving_store("n1")
    said = pb.IngressStatus(challenges=["t1"], signing_requests=[pb.SigningRequest(id="id-1")])
    store.report("n1", ingress=said)
    [server] = of(store).servers
    assert (server.reachable, server.tokens, list(server.requests)) == (True, frozenset({"t1"}), ["id-1"])
    replaced = pb.AssignmentStatus(node="n1", node_uid="another", ingress=said)
    store.put(KEYS.status("n1", REF), replaced)
    [server] = of(store).servers
    assert (server.tokens, list(server.requests)) == (frozenset(), [])
    store.delete(KEYS.heartbeat("n1"))
    assert not of(store).servers[0].reachable


def test_keys_are_those_of_machines_that_now_are_nodes() -> None:
    store = serving_store("n1", "n2")
    assert found(store).recipients == frozenset()
    beat(store, "n1", recipient(1))
    store.put(KEYS.node("n2"), pb.Node(name="n2", uid="uid-n2", labels=["web"], age_recipient=recipient(2)))
    beat(store, "n2", recipient(9), uid="another machine")
    assert found(store).recipients == {recipient(1), recipient(2)}
    assert [server.recipient for server in of(store).servers] == [recipient(1), recipient(2)]
    beat(store, "n1", "no key")
    assert found(store).recipients == {recipient(2)}


def test_host_is_named_for_as_long_as_release_that_counts_names_it() -> None:
    store = serving_store("n1")
    put_certificate(store, serial="abc")
    store.deploy(2, WEB)
    store.step()
    # Release 1 is what would be gone back to.
    assert of(store) == CertificateDemand(HOST, named=True)
    settle(store)
    store.deploy(3, WEB)
    settle(store)
    assert of(store) == CertificateDemand(HOST, named=False)


@pytest.mark.parametrize("what", ["release", "assignment", "missing release"])
def test_unreadable_release_may_name_host(what: str) -> None:
    store = serving_store("n1")
    put_certificate(store, serial="abc")
    for number in (2, 3):
        store.deploy(number, WEB)
        settle(store)
    assert not of(store).named
    if what == "release":
        store.garbage(KEYS.release(REF, 3))
    elif what == "assignment":
        store.garbage(KEYS.assignment("n1", REF))
    else:
        store.delete(KEYS.release(REF, 3))
    assert of(store).named


def test_unreadable_environment_has_unknown_hosts() -> None:
    store = serving_store("n1")
    store.garbage(KEYS.environment(REF))
    assert demands(store.snapshot()) is None


def test_deleted_environment_names_no_hosts() -> None:
    store = serving_store("n1")
    put_certificate(store, serial="abc")
    store.delete(KEYS.environment(REF))
    store.converge()
    store.report("n1")
    store.converge()
    assert of(store) == CertificateDemand(HOST, named=False)
