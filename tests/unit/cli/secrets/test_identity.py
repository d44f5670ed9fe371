"""age identity of the operator."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devopsellence.age import AgeIdentity
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets.identity import identity_path, load_or_create, operator_name
from devopsellence.store.keys import NAME


def test_identity_is_created_once_by_concurrent_commands(tmp_path: Path) -> None:
    path = tmp_path / "home" / "operator.age"
    with ThreadPoolExecutor(8) as pool:
        made = {each.recipient for each in pool.map(load_or_create, [path] * 8)}
    assert made == {load_or_create(path).recipient}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["operator.age"]


def test_identity_of_age_tool_is_accepted(tmp_path: Path) -> None:
    identity = AgeIdentity.generate()
    (tmp_path / "key").write_text(f"# created: 2026-01-01T00:00:00Z\n{identity.text()}")
    assert load_or_create(tmp_path / "key").recipient == identity.recipient


def test_invalid_identity_file_is_never_replaced(tmp_path: Path) -> None:
    for content in (b"", b"nonsense", b"\xff\xfe"):
        path = tmp_path / "key"
        path.write_bytes(content)
        with pytest.raises(CliError) as caught:
            load_or_create(path)
        assert caught.value.code == "identity_unusable"
        assert str(path) in caught.value.message
        assert path.read_bytes() == content


def test_unusable_identity_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CliError, match="File exists"):
        load_or_create(tmp_path / "file" / "operator.age")


def test_identity_path_follows_variables() -> None:
    assert identity_path({"DEVOPSELLENCE_HOME": "/home/of/it"}) == Path("/home/of/it/operator.age")
    assert identity_path({"DEVOPSELLENCE_HOME": "/home/of/it", "DEVOPSELLENCE_IDENTITY": "/k"}) == Path("/k")


@pytest.mark.parametrize(
    ("who", "start"),
    [
        ("ann@laptop.example.com", "ann.laptop-"),
        ("Ann Lee@büro", "Ann-Lee.b-ro-"),
        ("@", "unknown.unknown-"),
        ("-_-@---", "unknown.unknown-"),
        ("a" * 80 + "@" + "b" * 80, "a" * 26 + "." + "b" * 26 + "-"),
    ],
)
def test_operator_names_are_valid_names(who: str, start: str) -> None:
    name = operator_name(who, "age1x")
    assert name.startswith(start)
    assert NAME.match(name)
    assert name == operator_name(who, "age1x") != operator_name(who, "age1y")
