"""Closed standard streams, and arguments that are no text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from devopsellence.cli.main import main
from devopsellence.cli.streams import problem_of
from tests.support.process import python_environ
from tests.unit.cli.tree import leaves

NO_TEXT = os.fsdecode(b"\xff\xfe")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], ""),
        (["deploy", "--message", "größer 🎉"], ""),
        ([NO_TEXT], "argument 1 of the command line is not valid UTF-8"),
        (["exec", "web", "--", "echo", NO_TEXT], "argument 5 of the command line is not valid UTF-8"),
        (["--env=" + NO_TEXT, NO_TEXT], "argument 1 of the command line is not valid UTF-8"),
    ],
)
def test_argument_that_is_no_text_is_named_by_its_place(arguments: list[str], problem: str) -> None:
    assert problem_of(arguments) == problem


@pytest.mark.parametrize("words", sorted(leaves()))
def test_argument_that_is_no_text_is_refused_by_every_command(words: str) -> None:
    result = CliRunner().invoke(main, [*words.split(), NO_TEXT, "-o", "json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "usage"
    assert result.stderr.startswith(f"Error: argument {len(words.split()) + 1} of the command line is not valid UTF-8")


def process(arguments: str, *, closed: str, tmp_path: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a shell that closes standard streams, such as ``>&-``."""
    environ = python_environ({**os.environ, "DEVOPSELLENCE_HOME": str(tmp_path), "DEVOPSELLENCE_ETCD_ENDPOINTS": ""})
    line = f"exec {sys.executable} -m devopsellence.cli {arguments} {closed}"
    return subprocess.run(["/bin/sh", "-c", line], env=environ, capture_output=True, cwd=tmp_path, check=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("arguments", "exit_code"), [("version", 0), ("status -o json", 1), ("nosuch", 2)])
def test_closed_streams_change_no_exit_code(arguments: str, exit_code: int, closed: str, tmp_path: Path) -> None:
    done = process(arguments, closed=closed, tmp_path=tmp_path)
    assert done.returncode == exit_code
    assert b"Traceback" not in done.stderr
    if "2>&-" in closed:
        assert done.stderr == b""
    if closed == ">&-" and exit_code:
        assert done.stderr.startswith((b"Error: ", b"Usage: "))


def test_file_opened_by_a_command_is_not_taken_for_a_closed_stream(tmp_path: Path) -> None:
    # Without a stream in its place, the first file that is opened would get the number of stdout.
    (tmp_path / "devopsellence.yml").write_text("schema_version: 1\n")
    done = process("config validate", closed=">&-", tmp_path=tmp_path)
    assert (done.returncode, (tmp_path / "devopsellence.yml").read_text()) == (2, "schema_version: 1\n")


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", rb"\udcff"), ("latin-1", rb"\udcff"), ("ascii", rb"\udcff")])
def test_text_that_the_terminal_cannot_show_is_replaced(encoding: str, shown: bytes, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    environ = python_environ({**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
    command = [sys.executable, "-m", "devopsellence.cli", "config", "validate"]
    done = subprocess.run(command, env=environ, capture_output=True, cwd=folder, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)
    assert done.stderr.startswith(b"Error: no devopsellence.yml in ")
    assert b"/" + shown + b" or its parent folders" in done.stderr
