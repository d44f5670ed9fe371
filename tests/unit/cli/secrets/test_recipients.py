"""Whose key is believed, who can open what, and what releases say."""

from __future__ import annotations

from devopsellence.api.v1.stored_pb2 import Registry, Release
from devopsellence.api.v1.workload_pb2 import SecretRef, Service
from devopsellence.cli.secrets import listing, records, releases
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.secrets.records import SecretId
from devopsellence.store.keys import REGISTRY, EnvironmentRef

# Fixed, so that every process of the tests collects the same ones.
OLD = "age1mendh2wxy5ggtjh097gkess6qlsvpc70aucj9j5z87h0shml59vqjfpejn"
NEW = "age1s0u5zaz6fslazmacdwsckff5t3aqmxa7s0d8ehp7e9xch7vhd5aspd35ft"
WEB, PASSWORD = SecretId("web", "TOKEN"), SecretId(REGISTRY, "PASSWORD")


def test_readers_match_recipients() -> None:
    found = Recipients(nodes={"n2": OLD, "n1": NEW}, operators={"ann": "age1ann"}, keyless=("n3",))
    assert found.recipients == {OLD, NEW, "age1ann"}
    assert found.names == ["n1", "n2", "n3"]
    assert found.keys(["n1", "n3", "n4"]) == {NEW}
    assert (found.nodes_among([NEW, "age1ann"]), found.operators_among([NEW, "age1ann"])) == (["n1"], ["ann"])


def release() -> Release:
    web = Service(name="web", secret_refs=[SecretRef(name="A", secret="TOKEN", version=2)])
    worker = Service(name="worker", secret_refs=[SecretRef(name="A", secret="TOKEN", version=5)])
    return Release(number=7, services=[web, worker], registry=Registry(password_secret="PASSWORD", password_version=3))


def test_release_lists_its_secret_versions() -> None:
    assert releases.pinned(release(), WEB) == {2}
    assert releases.pinned(release(), PASSWORD) == {3}
    assert releases.pinned(release(), SecretId(REGISTRY, "OTHER")) == frozenset()
    assert releases.pinned(release(), SecretId("web", "OTHER")) == frozenset()
    assert releases.pinned(None, WEB) == frozenset()


def test_a_new_version_of_one_secret_changes_its_references_alone() -> None:
    after = releases.with_version(release(), WEB, 3)
    assert releases.pinned(after, WEB) == {3}
    assert releases.pinned(after, SecretId("worker", "TOKEN")) == {5}
    assert releases.with_version(release(), PASSWORD, 4).registry.password_version == 4
    assert releases.with_version(release(), SecretId("web", "OTHER"), 9) == release()


def test_a_listed_secret_says_who_is_shut_out_and_what_is_in_use() -> None:
    version = records.new_version(b"x", 3, [NEW], release().created_at, "ann\x1b[2J")
    secret = records.appended(None, EnvironmentRef("a", "b", "c"), WEB, version)
    found = Recipients(nodes={"n1": NEW, "n2": OLD}, operators={}, keyless=("n3",))
    entry = listing.entry_of(WEB, secret, found, release())
    assert (entry.nodes, entry.without_access, entry.release, entry.used) == (("n1",), ("n2", "n3"), 7, (2,))
    text = listing.table([entry], version.set_at.ToDatetime())
    assert "n1; not n2, n3" in text
    assert "7 (version 2)" in text
    assert "\x1b" not in text
    assert listing.document(entry)["nodes_without_access"] == ["n2", "n3"]
