"""Command line on a terminal, for tests that resize and inspect the terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios

from tests.integration.cli.test_terminal import Terminal
from tests.integration.remote.cluster import TIMEOUT, FakeAgentCluster
from tests.support.cli import Cli


class ResizableTerminal(Terminal):
    """Terminal with a variable size and a check of the terminal settings."""

    def __init__(self, cluster: FakeAgentCluster, *arguments: str) -> None:
        cli = Cli(cluster.settings, cluster.folder)
        cli.environ["DEVOPSELLENCE_ENVIRONMENT"] = cluster.environ["DEVOPSELLENCE_ENVIRONMENT"]
        super().__init__(cli, *arguments)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._descriptor)[3] & termios.ICANON

    def left(self) -> tuple[int, bool]:
        """Return the exit code, and whether the terminal settings are those of a new terminal."""
        code = self._process.wait(timeout=TIMEOUT)
        mine, other = pty.openpty()
        same = termios.tcgetattr(self._descriptor) == termios.tcgetattr(mine)
        for descriptor in (mine, other, self._descriptor):
            os.close(descriptor)
        return code, same
