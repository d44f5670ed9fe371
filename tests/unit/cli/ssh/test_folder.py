"""Folder of the sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.cli.output import CliError
from devopsellence.cli.ssh.folder import make_private, runtime_folder, socket_path
from devopsellence.cli.ssh.host import SshHost


def test_runtime_folder_is_that_of_the_session(tmp_path: Path) -> None:
    home = {"DEVOPSELLENCE_HOME": "/home/ann/x"}
    if len(str(tmp_path)) < 55:
        assert runtime_folder({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "devopsellence"
    assert runtime_folder(home) == Path("/home/ann/x/ssh")
    assert runtime_folder({"XDG_RUNTIME_DIR": "relative", **home}) == Path("/home/ann/x/ssh")
    assert runtime_folder({"XDG_RUNTIME_DIR": "/nonexistent", **home}) == Path("/home/ann/x/ssh")


@pytest.mark.parametrize(("home", "why"), [("/x" * 40, "too long"), ("/a b", "special"), ("/%h", "special")])
def test_path_that_no_socket_can_have_is_refused(home: str, why: str) -> None:
    with pytest.raises(CliError, match=why) as error:
        runtime_folder({"DEVOPSELLENCE_HOME": home})
    assert error.value.code == "ssh_folder_unusable"


def test_sockets_are_short_and_differ_by_host_and_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("DEVOPSELLENCE_HOME", "/" + "x" * 69)
    hosts = [SshHost("a"), SshHost("a", "b"), SshHost("a", "", 22)]
    paths = {socket_path(host, address) for host in hosts for address in ("10.0.0.1:1", "10.0.0.1:2")}
    assert len(paths) == 6
    # ssh appends a dot and 16 letters to the name of the control socket, "m".
    assert all(len(str(path.parent / "m")) + 17 < 108 and len(str(path)) < 108 for path in paths)


def test_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    for _ in range(2):
        make_private(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_folder_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "file").touch()
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    for name, why in (("open", "others have access"), ("file", "exists"), ("link", "it is not a folder")):
        with pytest.raises(CliError, match=why) as error:
            make_private(tmp_path / name)
        assert error.value.code == "ssh_folder_unusable"
