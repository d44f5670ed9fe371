"""Which images may go."""

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


def stored(letter: str, *tags: str, digests: tuple[str, ...] = (), ours: bool = True) -> StoredImage:
    named = (f"devopsellence/shop-1a2b3c:{letter * 12}",) if ours else ()
    return StoredImage(image(letter), (*named, *tags), digests)


def gone(ledger: ImageLedger, *images: StoredImage, in_use: frozenset[str] = NONE, now: float = NOW) -> list[str]:
    return [each.id[7] for each in unneeded_images(ledger, images, in_use, now)]


def after(*letters: str) -> ImageLedger:
    """Releases 1, 2, 3 … of one environment, each with one image."""
    ledger = ImageLedger()
    for number, letter in enumerate(letters, 1):
        ledger = ledger.with_release("e", number, [image(letter)])
    return ledger


def test_the_oldest_release_beyond_ten_is_forgotten() -> None:
    ledger = after(*"abcdef0123456")
    assert len(ledger.releases["e"]) == RELEASES_KEPT
    assert gone(ledger, *(stored(letter) for letter in "abcdef0123456")) == ["a", "b", "c"]


def test_an_image_that_a_kept_release_pins_as_well_stays() -> None:
    ledger = after(*"abcdef01234a")
    assert gone(ledger, stored("a"), stored("b")) == ["b"]


def test_an_image_that_another_environment_pins_stays() -> None:
    ledger = after("a").with_release("other", 1, [image("a")]).environment_removed("e")
    assert gone(ledger, stored("a")) == []
    assert gone(ledger.environment_removed("other"), stored("a")) == ["a"]


def test_services_of_one_release_come_in_two_steps() -> None:
    ledger = ImageLedger().with_release("e", 1, [image("a")]).with_release("e", 1, [image("b")])
    assert ledger.releases["e"][1] == {image("a"), image("b")}


@pytest.mark.parametrize(
    ("each", "in_use"),
    [
        pytest.param(stored("a"), frozenset({image("a")}), id="a container uses it"),
        pytest.param(stored("a", "theirs:1"), NONE, id="somebody else has named it"),
        pytest.param(stored("a", ours=False), NONE, id="nobody knows where it is from"),
        pytest.param(stored("a", f"devopsellence/shop-1a2b3c:{'b' * 12}"), NONE, id="it has another image's name"),
        pytest.param(stored("b"), NONE, id="no release here has ever pinned it"),
    ],
)
def test_used_images_are_kept(each: StoredImage, in_use: frozenset[str]) -> None:
    assert gone(after("a").environment_removed("e"), each, in_use=in_use) == []


def test_an_image_that_was_pulled_by_digest_goes_if_it_was_us() -> None:
    pinned = f"registry.example/redis@{image('d')}"
    ledger = ImageLedger().with_release("e", 1, [pinned]).environment_removed("e")
    pulled = stored("a", digests=(pinned,), ours=False)
    assert gone(ledger, pulled) == []
    assert gone(ledger.with_obtained(pinned, NOW), pulled) == ["a"]
    assert gone(ledger.with_obtained(pinned, NOW), stored("a", "redis:7", digests=(pinned,), ours=False)) == []


def test_requested_images_are_kept_during_the_deploy() -> None:
    ledger = after("a").environment_removed("e").with_requested([image("a")], NOW)
    assert gone(ledger, stored("a"), now=NOW + REQUESTED_SECONDS - 1) == []
    assert gone(ledger, stored("a"), now=NOW + REQUESTED_SECONDS + 1) == ["a"]
    # A clock that was set back keeps nothing for ever.
    assert gone(ledger, stored("a"), now=NOW - REQUESTED_SECONDS - 1) == ["a"]


def test_unreleased_images_are_removed_after_a_day() -> None:
    ledger = ImageLedger().with_obtained(image("a"), NOW)
    assert gone(ledger, stored("a"), now=NOW + OBTAINED_SECONDS - 1) == []
    assert gone(ledger, stored("a"), now=NOW + OBTAINED_SECONDS + 1) == ["a"]


def test_removed_images_are_forgotten() -> None:
    ledger = after("a").environment_removed("e").with_obtained(image("a"), NOW).without([image("a")])
    assert ledger == ImageLedger(releases={})


def test_old_questions_are_forgotten() -> None:
    ledger = ImageLedger().with_requested([image("a")], NOW).with_requested([image("b")], NOW + 2 * REQUESTED_SECONDS)
    assert set(ledger.requested) == {image("b")}


_images = st.frozensets(st.sampled_from("abcdef").map(image), max_size=3)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("released"), st.sampled_from("xy"), st.integers(1, 30), _images),
        st.tuples(st.just("departed"), st.sampled_from("xy")),
        st.tuples(st.just("brought"), st.sampled_from("abcdef").map(image)),
        st.tuples(st.just("asked"), _images),
    ),
    max_size=40,
)


@given(_steps, st.floats(0, 3 * OBTAINED_SECONDS))
def test_no_history_takes_away_what_a_kept_release_pins(steps: list[tuple[object, ...]], later: float) -> None:
    ledger = ImageLedger()
    for step in steps:
        match step:
            case ("released", str(env), int(number), frozenset(images)):
                ledger = ledger.with_release(env, number, images)
            case ("departed", str(env)):
                ledger = ledger.environment_removed(env)
            case ("brought", str(one)):
                ledger = ledger.with_obtained(one, NOW)
            case ("asked", frozenset(images)):
                ledger = ledger.with_requested(images, NOW)
    everything = [stored(letter) for letter in "abcdef"]
    taken = {each.id for each in unneeded_images(ledger, everything, NONE, NOW + later)}
    pinned = {one for releases in ledger.releases.values() for images in releases.values() for one in images}
    assert not taken & pinned
    assert taken <= ledger.left | ledger.obtained.keys()


def test_the_file_keeps_everything(tmp_path: Path) -> None:
    ledger = after(*"abcdef0123456").with_obtained(image("a"), NOW).with_requested([image("b")], NOW)
    file = ImageLedgerFile(tmp_path / "images.json")
    assert file.load() == ImageLedger()
    file.save(ledger)
    assert file.load() == ledger
    assert [path.name for path in tmp_path.iterdir()] == ["images.json"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "7", '{"releases": {"e": 1}, "left": [], "brought": {}, "asked": {}}']
)
def test_a_file_that_makes_no_sense_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "images.json").write_text(content)
    with pytest.raises(ValueError):
        ImageLedgerFile(tmp_path / "images.json").load()
