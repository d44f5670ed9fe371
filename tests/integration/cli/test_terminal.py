"""Commands on a terminal: live views that restore the cursor, questions, interruption."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from devopsellence import config
from tests.support.cli import Cli

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


class Terminal:
    """Command on a pseudo-terminal."""

    def __init__(self, cli: Cli, *arguments: str, **environ: str) -> None:
        command = [sys.executable, "-m", "devopsellence.cli", *arguments]
        variables = {
            **cli.process_environ(),
            "TERM": "xterm-256color",
            "COLUMNS": "120",
            **environ,
        }
        self.seen = b""
        self._descriptor, other_end = pty.openpty()
        # A session of its own, whose terminal this is: only then does Ctrl-C become a signal.
        session = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", session, *command],
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            env=variables,
            start_new_session=True,
        )
        self.pid = self._process.pid
        os.close(other_end)

    def read_until(self, wanted: bytes, seconds: float = 20.0, *, times: int = 1) -> None:
        give_up = time.monotonic() + seconds
        while self.seen.count(wanted) < times:
            if time.monotonic() >= give_up or not self._read(0.2):
                # A process left behind would fail the next test as well.
                self._process.kill()
                self._process.wait()
                os.close(self._descriptor)
                raise AssertionError(self.seen)

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def end(self) -> int:
        """The exit code, after everything was read."""
        while self._read(5.0):
            pass
        code = self._process.wait(timeout=20)
        os.close(self._descriptor)
        return code

    def hang_up(self) -> int:
        """Close the terminal, for which the kernel sends SIGHUP, and return the exit code."""
        os.close(self._descriptor)
        return self._process.wait(timeout=20)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return True
        try:
            chunk = os.read(self._descriptor, 65536)
        except OSError:  # the other end is closed
            return False
        self.seen += chunk
        return bool(chunk)


@pytest.fixture
def waiting(shop: Cli) -> Cli:
    """Release without a rollout."""
    shop.ok("node", "register", "n1")
    shop.ok("node", "attach", "n1")
    shop.ok("deploy", "--detach")
    return shop


def test_control_c_restores_cursor_and_reports_continuing_rollout(waiting: Cli) -> None:
    terminal = Terminal(waiting, "deploy")
    terminal.read_until(b"waiting for the controller")
    terminal.type(b"\x03")
    assert terminal.end() == 130
    assert terminal.seen.count(HIDE) == terminal.seen.count(SHOW) == 1
    assert b"interrupted; the rollout of release 2 continues; follow with devopsellence status --watch" in terminal.seen
    assert b"Traceback" not in terminal.seen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_terminated_watch_restores_cursor(waiting: Cli, number: signal.Signals, code: int) -> None:
    terminal = Terminal(waiting, "status", "--watch")
    terminal.read_until(b"waiting for the controller")
    os.kill(terminal.pid, number)
    assert terminal.end() == code
    assert terminal.seen.count(HIDE) == terminal.seen.count(SHOW) == 1
    assert f"ended by {number.name}; a rollout continues by itself".encode() in terminal.seen
    assert b"Traceback" not in terminal.seen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ended_deploy_reports_continuing_rollout(waiting: Cli, number: signal.Signals, code: int) -> None:
    terminal = Terminal(waiting, "deploy")
    terminal.read_until(b"waiting for the controller")
    os.kill(terminal.pid, number)
    assert terminal.end() == code
    said = f"ended by {number.name}; the rollout of release 2 continues; follow with devopsellence status --watch"
    assert said.encode() in terminal.seen


@pytest.fixture
def building(waiting: Cli, tmp_path: Path) -> Iterator[Terminal]:
    """Deploy whose build does not end, with a TMPDIR of its own."""
    file = waiting.folder / "devopsellence.yml"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "image:" not in line))
    from tests.support.images import IMAGE

    # A step of this test's own: one that has once ended would be in Docker's build cache.
    (waiting.folder / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN echo {tmp_path}; sleep 40\n")
    (tmp_path / "tmp").mkdir()
    terminal = Terminal(waiting, "deploy", TMPDIR=str(tmp_path / "tmp"))
    terminal.read_until(b"Running in")
    assert [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("devopsellence-")]
    yield terminal
    assert waiting.json("status")["release"]["number"] == 1
    assert list((tmp_path / "tmp").iterdir()) == []
    assert commands_with(str(tmp_path / "tmp")) == []


def commands_with(word: str) -> list[bytes]:
    """Return the command lines of this machine's processes that contain a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            found += [line] if word.encode() in (line := path.read_bytes()) else []
    return found


def test_control_c_during_build_writes_nothing(building: Terminal) -> None:
    building.type(b"\x03")
    assert building.end() == 130
    assert b"interrupted; nothing was written" in building.seen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_during_build_ends_the_build_and_leaves_nothing(
    building: Terminal, number: signal.Signals, code: int
) -> None:
    os.kill(building.pid, number)
    assert building.end() == code
    assert f"ended by {number.name}; nothing was written".encode() in building.seen


def test_closed_terminal_during_build_leaves_nothing(building: Terminal) -> None:
    assert building.hang_up() == 129


def test_status_on_terminal_has_colour_unless_disabled(waiting: Cli) -> None:
    coloured = Terminal(waiting, "status")
    assert coloured.end() == 0
    assert b"\x1b[" in coloured.seen
    plain = Terminal(waiting, "status", NO_COLOR="1")
    assert plain.end() == 0
    assert b"n1" in plain.seen
    assert b"\x1b[3" not in plain.seen


def test_init_asks_on_a_terminal(cli: Cli) -> None:
    (cli.folder / "Dockerfile").write_text("FROM x\nEXPOSE 8080\n")
    terminal = Terminal(cli, "init")
    terminal.read_until(b"Organization")
    terminal.type(b"not a name\r")
    terminal.read_until(b"is not a name")
    terminal.type(b"acme\r")
    terminal.read_until(b"Project [app]")
    terminal.type(b"\r")
    terminal.read_until(b"[8080]")
    terminal.type(b"\r")
    terminal.read_until(b"[/up]")
    terminal.type(b"healthz\r")
    assert terminal.end() == 0
    written = config.load(cli.folder / "devopsellence.yml")
    (web,) = written.resolve("production").services
    assert (written.organization, written.project) == ("acme", "app")
    assert (web.ports[0].port, web.healthcheck.path) == (8080, "/healthz")


def test_no_color_flag_prints_no_colours(waiting: Cli) -> None:
    plain = Terminal(waiting, "status", "--no-color")
    assert plain.end() == 0
    assert b"n1" in plain.seen
    assert b"\x1b[3" not in plain.seen


def test_init_does_not_ask_when_told_so(cli: Cli) -> None:
    terminal = Terminal(cli, "init", "--mode", "solo", "--org", "acme", "--env", "staging", "--non-interactive")
    assert terminal.end() == 0
    written = config.load(cli.folder / "devopsellence.yml")
    assert (written.organization, written.default_environment) == ("acme", "staging")


@pytest.mark.parametrize("answer", [b"n\r", b"\x03"])
def test_declined_detach_changes_nothing(waiting: Cli, answer: bytes) -> None:
    terminal = Terminal(waiting, "node", "detach", "n1")
    terminal.read_until(b"[y/N]")
    terminal.type(answer)
    assert terminal.end() == (130 if answer == b"\x03" else 1)
    assert waiting.json("status")["environment"]["nodes"] == ["n1"]


def test_declined_removal_of_a_node_changes_nothing(waiting: Cli) -> None:
    waiting.ok("node", "register", "n2")
    terminal = Terminal(waiting, "node", "remove", "n2")
    terminal.read_until(b"This removes node n2 with all its containers from the cluster; its volumes stay.")
    terminal.type(b"n\r")
    assert terminal.end() == 1
    assert [node["node"] for node in waiting.json("node", "list")["nodes"]] == ["n1", "n2"]


def test_question_about_a_certificate_names_host_and_environment(waiting: Cli) -> None:
    terminal = Terminal(waiting, "ingress", "cert", "remove", "app.example.com")
    terminal.read_until(b"certificate and private key of app.example.com in acme/Shop/production. Continue? [y/N]")
    terminal.type(b"n\r")
    assert terminal.end() == 1
    assert b"not confirmed; nothing was changed" in terminal.seen


def test_confirmed_detach_detaches(waiting: Cli) -> None:
    terminal = Terminal(waiting, "node", "detach", "n1")
    terminal.read_until(b"This removes the containers of acme/Shop/production from node n1; its volumes stay.")
    terminal.type(b"y\r")
    assert terminal.end() == 0
    assert waiting.json("status")["environment"]["nodes"] == []


def test_init_without_terminal_takes_flags_and_writes_valid_file(cli: Cli) -> None:
    assert cli.error("init")["code"] == "missing_option"
    cli.ok("init", "--organization", "acme", "--project", "Shop", "--environment", "staging", "--port", "80")
    written = config.load(cli.folder / "devopsellence.yml")
    assert (written.project, written.default_environment) == ("Shop", "staging")
    assert "is valid" in cli.ok("config", "validate")


def test_init_keeps_existing_file(cli: Cli, tmp_path: Path) -> None:
    file = cli.folder / "devopsellence.yml"
    file.write_text("mine")
    assert cli.error("init", "--organization", "acme")["code"] == "config_exists"
    assert file.read_text() == "mine"
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert cli.error("init", "--organization", "acme")["code"] == "config_exists"
    assert not (tmp_path / "elsewhere").exists()
