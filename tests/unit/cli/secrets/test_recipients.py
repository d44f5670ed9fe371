"""Public keys of nodes and operators."""

from __future__ import annotations

from devopsellence.cli.secrets.recipients import Recipients

# Fixed, so that every process of the tests collects the same ones.
OLD = "age1mendh2wxy5ggtjh097gkess6qlsvpc70aucj9j5z87h0shml59vqjfpejn"
NEW = "age1s0u5zaz6fslazmacdwsckff5t3aqmxa7s0d8ehp7e9xch7vhd5aspd35ft"


def test_readers_match_recipients() -> None:
    found = Recipients(nodes={"n2": OLD, "n1": NEW}, operators={"ann": "age1ann"}, keyless=("n3",))
    assert found.recipients == {OLD, NEW, "age1ann"}
    assert found.names == ["n1", "n2", "n3"]
    assert found.keys(["n1", "n3", "n4"]) == {NEW}
    assert (found.nodes_among([NEW, "age1ann"]), found.operators_among([NEW, "age1ann"])) == (["n1"], ["ann"])
