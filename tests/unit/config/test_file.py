"""Finding and opening the file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from devopsellence.config import ConfigError, find, load
from devopsellence.config.file import MAX_BYTES, read_file


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value).removeprefix(str(path))


def test_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    assert refusal(tmp_path / "devopsellence.yml") == ":1:1: file not found; write one, or run: devopsellence init"


def test_folder_is_not_a_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f":1:1: is a folder; give the path of a file, such as {tmp_path}/devopsellence.yml"


def test_unreadable_path_is_a_config_error() -> None:
    assert "cannot be read: embedded null byte" in refusal(Path("a\0b"))
    assert "cannot be read: File name too long" in refusal(Path("a" * 5000))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ":1:1: is empty; write one, or run: devopsellence init"),
        (b"a: 1\nb: \xff\xfe", ":2:4: is not UTF-8 text: invalid byte 0xff"),
        (b"\xff\xfea\x00", ":1:1: is not UTF-8 text: invalid byte 0xff"),
        ("é: \0".encode(), ":1:4: contains the control character U+0000, which YAML does not allow"),
        (b"a: 1\nb: \x1b[2J", ":2:4: contains the control character U+001B, which YAML does not allow"),
        (b"#" * (MAX_BYTES + 1), ":1:1: is larger than 1024 KiB, the limit for a configuration"),
        (b"# only\n# comments\n", ":3:1: is empty; write one, or run: devopsellence init"),
    ],
)
def test_non_text_file_is_refused_with_the_place(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "devopsellence.yml"
    path.write_bytes(content)
    assert refusal(path) == said


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "devopsellence.yml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_file(path) == "a: 1\r\nb: 2\r\n"


class TestPipe:
    def test_text_from_a_writer_is_read_to_the_end(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        text = "a: " + "x" * 200_000  # more than a pipe holds
        writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(text,))
        writer.start()
        assert read_file(tmp_path / "pipe") == text
        writer.join()

    def test_pipe_without_a_writer_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ConfigError, match="is a pipe into which nothing was written for 0 s; start its writer"):
            read_file(tmp_path / "pipe", pipe_timeout=0)

    def test_pipe_of_a_silent_writer_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        writer = os.open(tmp_path / "pipe", os.O_RDWR)
        os.write(writer, b"a: 1\n")
        with pytest.raises(ConfigError, match="is a pipe into which nothing was written for 0 s"):
            read_file(tmp_path / "pipe", pipe_timeout=0)
        os.close(writer)

    def test_endless_stream_is_too_large(self) -> None:
        assert ":1:1: is larger than 1024 KiB" in refusal(Path("/dev/zero"))


class TestFind:
    def test_nearest_file_upwards_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "app/src/deep").mkdir(parents=True)
        (tmp_path / "app/devopsellence.yml").touch()
        (tmp_path / "devopsellence.yml").touch()
        assert find(tmp_path / "app/src/deep") == tmp_path / "app/devopsellence.yml"
        assert find(tmp_path / "app") == tmp_path / "app/devopsellence.yml"

    def test_search_ends_at_the_root_of_the_working_tree(self, tmp_path: Path) -> None:
        (tmp_path / "devopsellence.yml").touch()
        (tmp_path / "app/.git").mkdir(parents=True)
        (tmp_path / "app/src").mkdir()
        assert find(tmp_path / "app/src") is None
        (tmp_path / "app/devopsellence.yml").touch()
        assert find(tmp_path / "app/src") == tmp_path / "app/devopsellence.yml"

    def test_search_ends_at_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / "home/app").mkdir(parents=True)
        (tmp_path / "devopsellence.yml").touch()
        assert find(tmp_path / "home/app") is None

    def test_folder_named_like_the_file_is_ignored(self, tmp_path: Path) -> None:
        (tmp_path / "devopsellence.yml").mkdir()
        (tmp_path / ".git").mkdir()
        assert find(tmp_path) is None
