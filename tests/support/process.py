"""Programs as processes of their own: environment, start, signals, log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_END_SECONDS = 20.0


def python_environ(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return variables with which a Python process finds the modules that this process finds.

    ``environ``: the other variables; None: those of this process.
    """
    return {**(os.environ if environ is None else environ), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def log_lines(log: Path, event: str) -> list[dict[str, Any]]:
    """Return the lines of a JSON log with the message ``event``. A line that is still being written does not count."""
    text = log.read_text()
    complete = text[: text.rfind("\n") + 1].splitlines()
    lines = [json.loads(line) for line in complete if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


class Program:
    """Process that can be killed, paused and started again, with its log."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.command = list(command)
        self.environ = dict(environ)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the program without waiting for anything; output is appended to the log."""
        assert not self.running
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = _END_SECONDS) -> int:
        """Return the exit code once the process has ended.

        Raises:
            subprocess.TimeoutExpired: the process still runs after ``seconds``.
        """
        assert self._process is not None
        return self._process.wait(seconds)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal and wait for the end, by SIGKILL if need be; no error if the process has ended before."""
        if self._process is not None:
            self.send(number)
            if number != signal.SIGKILL:
                self.send(signal.SIGCONT)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self._process.kill()
                self.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the process with SIGSTOP inside the block."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines with this message."""
        return log_lines(self.log, event)
