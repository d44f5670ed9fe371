"""Order of the releases in use."""

from __future__ import annotations

from devopsellence.cli.store.releases import in_order
from devopsellence.cli.store.snapshot import ReleaseNumbers


def test_running_release_comes_before_the_newest() -> None:
    assert in_order(ReleaseNumbers(5, 2, frozenset({2, 5}))) == [2, 5]
    assert in_order(ReleaseNumbers(5, 5, frozenset({2, 5}))) == [5, 2]
    assert in_order(ReleaseNumbers(0, 0, frozenset())) == []
