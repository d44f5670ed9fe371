"""File of the contexts: changes, damage, permissions, several commands at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devopsellence.cli.contexts import file
from devopsellence.cli.contexts.file import Contexts
from devopsellence.cli.contexts.record import ClusterContext
from devopsellence.cli.output import CliError
from devopsellence.names import InvalidName
from devopsellence.store.settings import Settings

PROD = ClusterContext(Settings(endpoints=("10.0.0.1:2381",)))
STAGING = ClusterContext(Settings(endpoints=("10.0.1.1:2381",)))
BOTH = Contexts({"prod": PROD, "staging": STAGING}, "prod")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DEVOPSELLENCE_HOME", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "devopsellence"


def code_of(error: pytest.ExceptionInfo[CliError]) -> tuple[str, int]:
    return error.value.code, error.value.exit_code


def test_missing_file_has_no_contexts() -> None:
    assert file.load() == Contexts()


def test_change_is_written_for_this_user_alone(home: Path) -> None:
    assert file.change(lambda _: BOTH) == BOTH
    assert file.load() == BOTH
    assert (home / "contexts.json").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in home.iterdir()) == ["contexts.json", "contexts.lock"]


def test_change_without_a_difference_leaves_the_file_alone(home: Path) -> None:
    file.change(lambda _: BOTH)
    before = (home / "contexts.json").stat()
    file.change(lambda contexts: contexts)
    assert os.path.samestat((home / "contexts.json").stat(), before)


def test_added_context_keeps_the_one_in_use() -> None:
    added = Contexts({"prod": PROD}, "prod").added("staging", STAGING)
    assert (list(added.by_name), added.current) == (["prod", "staging"], "prod")
    assert Contexts({"prod": PROD}, "prod").added("staging", STAGING, use=True).current == "staging"


def test_renamed_context_keeps_its_place_and_its_use() -> None:
    renamed = BOTH.renamed("prod", "production")
    assert (list(renamed.by_name), renamed.current) == (["production", "staging"], "production")
    assert BOTH.renamed("staging", "test").current == "prod"
    assert BOTH.renamed("prod", "prod") == BOTH


def test_removed_context_is_not_in_use_any_more() -> None:
    assert BOTH.without("prod") == Contexts({"staging": STAGING})
    assert BOTH.without("staging") == Contexts({"prod": PROD}, "prod")


def test_taken_name_is_refused() -> None:
    changes: list[Callable[[], object]] = [
        lambda: BOTH.added("prod", STAGING),
        lambda: BOTH.renamed("prod", "staging"),
    ]
    for change in changes:
        with pytest.raises(CliError, match="already") as error:
            change()
        assert code_of(error) == ("context_exists", 2)


def test_unknown_context_is_refused_with_the_known_ones() -> None:
    changes: list[Callable[[], object]] = [
        lambda: BOTH.get("test"),
        lambda: BOTH.using("test"),
        lambda: BOTH.without("test"),
        lambda: BOTH.renamed("test", "other"),
    ]
    for change in changes:
        with pytest.raises(CliError, match="there is no context test; known: prod, staging") as error:
            change()
        assert code_of(error) == ("context_unknown", 2)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "..", "a b", "a\n", "x" * 64, "é", "\x1b[31m"])
def test_name_follows_the_rule_of_all_names(name: str) -> None:
    changes: list[Callable[[], object]] = [
        lambda: BOTH.added(name, PROD),
        lambda: BOTH.get(name),
        lambda: BOTH.renamed("prod", name),
    ]
    for change in changes:
        with pytest.raises(InvalidName):
            change()


VALID = {"version": 1, "current": "prod", "contexts": {"prod": PROD.document()}}
DAMAGED = {
    "empty": b"",
    "cut": json.dumps(VALID).encode()[:-7],
    "binary": b"\xff\xfe\0",
    "deep": b"[" * 200_000,
    "list": b"[]",
    "version": json.dumps({**VALID, "version": 2}).encode(),
    "field": json.dumps({**VALID, "color": 1}).encode(),
    "current": json.dumps({**VALID, "current": "other"}).encode(),
    "type": json.dumps({**VALID, "contexts": []}).encode(),
    "name": json.dumps({**VALID, "current": "", "contexts": {"../x": PROD.document()}}).encode(),
    "context": json.dumps({**VALID, "contexts": {"prod": {"endpoints": ["no"]}}}).encode(),
    "large": b" " * (file.MAX_BYTES + 1),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_file_is_reported_and_never_overwritten(damage: str, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "contexts.json").write_bytes(DAMAGED[damage])
    for use in (file.load, lambda: file.change(lambda contexts: contexts.added("new", PROD))):
        with pytest.raises(CliError, match=r"contexts\.json is damaged and was not changed: ") as error:
            use()
        assert code_of(error) == ("contexts_unusable", 2)
    assert (home / "contexts.json").read_bytes() == DAMAGED[damage]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_can_write_is_refused(mode: int) -> None:
    file.change(lambda _: BOTH)
    file.path().chmod(mode)
    with pytest.raises(CliError, match="other users can write") as error:
        file.load()
    assert code_of(error) == ("contexts_unusable", 2)


def test_unreadable_file_is_reported(home: Path) -> None:
    (home / "contexts.json").mkdir(parents=True)
    with pytest.raises(CliError, match="cannot read") as error:
        file.load()
    assert code_of(error) == ("contexts_unusable", 2)


def test_failed_change_leaves_the_file() -> None:
    file.change(lambda _: BOTH)
    with pytest.raises(CliError):
        file.change(lambda contexts: contexts.without("other"))
    assert file.load() == BOTH


def test_commands_at_once_lose_nothing(home: Path) -> None:
    """Eight processes add five contexts each."""
    script = f"""
import sys
from devopsellence.cli.contexts import file
from devopsellence.cli.contexts.record import ClusterContext
context = ClusterContext.parse({PROD.document()!r})
for number in range(5):
    file.change(lambda contexts: contexts.added(f"c{{sys.argv[1]}}-{{number}}", context))
"""
    running = [subprocess.Popen([sys.executable, "-c", script, str(number)]) for number in range(8)]
    assert [process.wait(60) for process in running] == [0] * 8
    assert set(file.load().by_name) == {f"c{first}-{second}" for first in range(8) for second in range(5)}
    assert sorted(path.name for path in home.iterdir()) == ["contexts.json", "contexts.lock"]
