"""Choice of unused app images."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from devopsellence.cli.images.build import image_name
from devopsellence.cli.images.docker_cli import LocalImage
from devopsellence.cli.images.prune import KEPT_RELEASES, kept, unused_names
from devopsellence.store.etcd import KeyValue
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
OLD = "2026-05-04T10:59:00.123456789Z"


def image(letter: str, *tags: str, at: str = OLD, digests: tuple[str, ...] = ()) -> LocalImage:
    identifier = f"sha256:{letter * 64}"
    return LocalImage(identifier, digests, (image_name(REF, identifier), *tags), tagged_at=at)


def name(letter: str) -> str:
    return image_name(REF, f"sha256:{letter * 64}")


def test_unused_images_are_removed_by_name() -> None:
    keep = {f"sha256:{'a' * 64}"}
    assert unused_names(REF, [image("c"), image("a"), image("b", "mine:1")], keep, NOW) == [name("b"), name("c")]


def test_image_pinned_by_digest_is_kept() -> None:
    pinned = f"registry.example/shop@sha256:{'d' * 64}"
    assert unused_names(REF, [image("a", digests=(pinned,))], {pinned}, NOW) == []


@pytest.mark.parametrize(
    "at", ["2026-05-04T11:30:00Z", "2026-05-04T13:30:00+02:00", "2026-05-04T12:00:05Z", "", "never"]
)
def test_recent_image_is_kept(at: str) -> None:
    assert unused_names(REF, [image("a", at=at)], set(), NOW) == []


def test_foreign_tags_are_kept() -> None:
    other = LocalImage(f"sha256:{'a' * 64}", (), (name("b"), "mine:1"), tagged_at=OLD)
    assert unused_names(REF, [other], set(), NOW) == []


def test_pushed_tag_is_removed_too() -> None:
    pushed = f"127.0.0.1:5000/shop:{'a' * 12}"
    assert unused_names(REF, [image("a", pushed, "127.0.0.1:5000/shop:latest")], set(), NOW) == [pushed, name("a")]


def test_images_of_running_release_are_kept_however_old() -> None:
    items = [KeyValue(f"r/{number:02}", b"", 1, number, 1, 0) for number in range(1, 21)]
    latest = [f"r/{number:02}" for number in range(21 - KEPT_RELEASES, 21)]
    assert [item.key for item in kept(items, set())] == latest
    assert [item.key for item in kept(items, {"r/03", "r/20"})] == ["r/03", *latest]
