"""Rows of the list of secrets."""

from __future__ import annotations

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.api.v1.workload_pb2 import SecretRef, Service
from devopsellence.cli.secrets import listing, records
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.secrets.records import SecretId
from devopsellence.store.keys import EnvironmentRef

# Fixed, so that every process of the tests collects the same ones.
OLD = "age1mendh2wxy5ggtjh097gkess6qlsvpc70aucj9j5z87h0shml59vqjfpejn"
NEW = "age1s0u5zaz6fslazmacdwsckff5t3aqmxa7s0d8ehp7e9xch7vhd5aspd35ft"
WEB = SecretId("web", "TOKEN")


def release() -> Release:
    web = Service(name="web", secret_refs=[SecretRef(name="A", secret="TOKEN", version=2)])
    return Release(number=7, services=[web])


def newer() -> Service:
    return Service(name="web", secret_refs=[SecretRef(name="A", secret="TOKEN", version=3)])


def test_row_shows_nodes_without_access_and_used_versions() -> None:
    version = records.new_version(b"x", 3, [NEW], release().created_at, "ann\x1b[2J")
    secret = records.appended(None, EnvironmentRef("a", "b", "c"), WEB, version)
    found = Recipients(nodes={"n1": NEW, "n2": OLD}, operators={}, keyless=("n3",))
    entry = listing.entry_of(WEB, secret, found, [release(), Release(number=8), Release(number=9, services=[newer()])])
    assert (entry.nodes, entry.without_access, entry.uses) == (("n1",), ("n2", "n3"), ((7, (2,)), (9, (3,))))
    text = listing.table([entry], version.set_at.ToDatetime())
    assert "n1; not n2, n3" in text
    assert "7 (version 2), 9" in text
    assert "\x1b" not in text
    document = listing.document(entry)
    assert document["nodes_without_access"] == ["n2", "n3"]
    assert (document["release"], document["release_versions"]) == (7, [2])
    assert document["used_by"] == [{"release": 7, "versions": [2]}, {"release": 9, "versions": [3]}]


def test_secret_of_no_release_in_use_has_no_release() -> None:
    version = records.new_version(b"x", 3, [NEW], release().created_at, "ann")
    secret = records.appended(None, EnvironmentRef("a", "b", "c"), WEB, version)
    document = listing.document(listing.entry_of(WEB, secret, Recipients({}, {}, ()), [Release(number=8)]))
    assert (document["release"], document["release_versions"], document["used_by"]) == (None, [], [])
