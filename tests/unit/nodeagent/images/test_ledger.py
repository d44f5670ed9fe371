"""Choice of the images to remove."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devopsellence.nodeagent.docker.images import StoredImage
from devopsellence.nodeagent.images.ledger import (
    OBTAINED_SECONDS,
    RELEASES_KEPT,
    REQUESTED_SECONDS,
    ImageLedger,
    ImageLedgerFile,
    unneeded_images,
)

NOW = 1_000_000.0
NONE: frozenset[str] = frozenset()


def image(letter: str) -> str:
    return f"sha256:{letter * 64}"


def stored(letter: str, *tags: str, digests: tuple[str, ...] = (), own: bool = True) -> StoredImage:
    named = (f"devopsellence/shop-1a2b3c:{letter * 12}",) if own else ()
    return StoredImage(image(letter), (*named, *tags), digests)


def removed(ledger: ImageLedger, *images: StoredImage, in_use: frozenset[str] = NONE, now: float = NOW) -> list[str]:
    return [unneeded.id[7] for unneeded in unneeded_images(ledger, images, in_use, now)]


def after(*letters: str) -> ImageLedger:
    """Return the ledger after releases 1, 2, 3 … of an environment, with an image per release."""
    ledger = ImageLedger()
    for number, letter in enumerate(letters, 1):
        ledger = ledger.with_release("e", number, [image(letter)])
    return ledger


def test_releases_beyond_the_limit_are_forgotten() -> None:
    ledger = after(*"abcdef0123456")
    assert len(ledger.releases["e"]) == RELEASES_KEPT
    assert removed(ledger, *(stored(letter) for letter in "abcdef0123456")) == ["a", "b", "c"]


def test_release_to_return_to_is_never_forgotten() -> None:
    ledger = after("a")
    for number, letter in enumerate("bcdef01234567", 2):
        ledger = ledger.with_release("e", number, [image(letter)], last_settled=1)
    assert removed(ledger, *(stored(letter) for letter in "abcdef01234567")) == ["b", "c", "d"]
    # Another release has settled.
    ledger = ledger.with_release("e", 15, [image("8")], last_settled=14)
    assert "a" in removed(ledger, stored("a"))


def test_release_that_runs_again_is_never_forgotten() -> None:
    ledger = after(*"abcdef0123456").with_release("e", 1, [image("a")])
    assert removed(ledger, stored("a"), stored("b")) == ["b"]


def test_image_of_a_kept_release_stays() -> None:
    ledger = after(*"abcdef01234a")
    assert removed(ledger, stored("a"), stored("b")) == ["b"]


def test_image_of_another_environment_stays() -> None:
    ledger = after("a").with_release("other", 1, [image("a")]).environment_removed("e")
    assert removed(ledger, stored("a")) == []
    assert removed(ledger.environment_removed("other"), stored("a")) == ["a"]


def test_images_of_a_release_accumulate() -> None:
    ledger = ImageLedger().with_release("e", 1, [image("a")]).with_release("e", 1, [image("b")])
    assert ledger.releases["e"][1] == {image("a"), image("b")}


@pytest.mark.parametrize(
    ("candidate", "in_use"),
    [
        pytest.param(stored("a"), frozenset({image("a")}), id="used by a container"),
        pytest.param(stored("a", "theirs:1"), NONE, id="foreign tag"),
        pytest.param(stored("a", own=False), NONE, id="unknown origin"),
        pytest.param(stored("a", f"devopsellence/shop-1a2b3c:{'b' * 12}"), NONE, id="project tag of another image"),
        pytest.param(stored("b"), NONE, id="never pinned by a release"),
    ],
)
def test_used_images_are_kept(candidate: StoredImage, in_use: frozenset[str]) -> None:
    assert removed(after("a").environment_removed("e"), candidate, in_use=in_use) == []


def test_image_pulled_by_the_agent_is_removed() -> None:
    pinned = f"registry.example/redis@{image('d')}"
    ledger = ImageLedger().with_release("e", 1, [pinned]).environment_removed("e")
    pulled = stored("a", digests=(pinned,), own=False)
    assert removed(ledger, pulled) == []
    assert removed(ledger.with_obtained(pinned, NOW), pulled) == ["a"]
    assert removed(ledger.with_obtained(pinned, NOW), stored("a", "redis:7", digests=(pinned,), own=False)) == []


def test_requested_images_are_kept_during_the_deploy() -> None:
    ledger = after("a").environment_removed("e").with_requested([image("a")], NOW)
    assert removed(ledger, stored("a"), now=NOW + REQUESTED_SECONDS - 1) == []
    assert removed(ledger, stored("a"), now=NOW + REQUESTED_SECONDS + 1) == ["a"]
    # A clock that was set back keeps nothing for ever.
    assert removed(ledger, stored("a"), now=NOW - REQUESTED_SECONDS - 1) == ["a"]


def test_unreleased_images_are_removed_after_a_day() -> None:
    ledger = ImageLedger().with_obtained(image("a"), NOW)
    assert removed(ledger, stored("a"), now=NOW + OBTAINED_SECONDS - 1) == []
    assert removed(ledger, stored("a"), now=NOW + OBTAINED_SECONDS + 1) == ["a"]


def test_removed_images_are_forgotten() -> None:
    ledger = after("a").environment_removed("e").with_obtained(image("a"), NOW).without([image("a")])
    assert ledger == ImageLedger(releases={})


def test_old_requests_are_forgotten() -> None:
    ledger = ImageLedger().with_requested([image("a")], NOW).with_requested([image("b")], NOW + 2 * REQUESTED_SECONDS)
    assert set(ledger.requested) == {image("b")}


_images = st.frozensets(st.sampled_from("abcdef").map(image), max_size=3)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("released"), st.sampled_from("xy"), st.integers(1, 30), _images),
        st.tuples(st.just("removed"), st.sampled_from("xy")),
        st.tuples(st.just("obtained"), st.sampled_from("abcdef").map(image)),
        st.tuples(st.just("requested"), _images),
    ),
    max_size=40,
)


@given(_steps, st.floats(0, 3 * OBTAINED_SECONDS))
def test_pinned_images_stay_after_any_history(steps: list[tuple[object, ...]], later: float) -> None:
    ledger = ImageLedger()
    for step in steps:
        match step:
            case ("released", str(env), int(number), frozenset(images)):
                ledger = ledger.with_release(env, number, images)
            case ("removed", str(env)):
                ledger = ledger.environment_removed(env)
            case ("obtained", str(obtained)):
                ledger = ledger.with_obtained(obtained, NOW)
            case ("requested", frozenset(images)):
                ledger = ledger.with_requested(images, NOW)
    everything = [stored(letter) for letter in "abcdef"]
    removed_ids = {unneeded.id for unneeded in unneeded_images(ledger, everything, NONE, NOW + later)}
    pinned = {pin for releases in ledger.releases.values() for images in releases.values() for pin in images}
    assert not removed_ids & pinned
    assert removed_ids <= ledger.left | ledger.obtained.keys()


def test_ledger_file_round_trip(tmp_path: Path) -> None:
    ledger = after(*"abcdef0123456").with_obtained(image("a"), NOW).with_requested([image("b")], NOW)
    file = ImageLedgerFile(tmp_path / "images.json")
    assert file.load() == ImageLedger()
    file.save(ledger)
    assert file.load() == ledger
    assert [path.name for path in tmp_path.iterdir()] == ["images.json"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "7", '{"releases": {"e": 1}, "left": [], "brought": {}, "asked": {}}']
)
def test_invalid_ledger_file_raises(tmp_path: Path, content: str) -> None:
    (tmp_path / "images.json").write_text(content)
    with pytest.raises(ValueError):
        ImageLedgerFile(tmp_path / "images.json").load()
