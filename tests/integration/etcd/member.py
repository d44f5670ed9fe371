"""Programs of a cluster that tests start, pause and end; members of etcd among them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Program:
    """A process that can be killed, paused and started again, with its log."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.command = list(command)
        self.environ = dict(environ)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.running
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal it, and wait until it has ended; fine if it has."""
        if self._process is not None:
            self._process.send_signal(number)
            if number != signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Log lines with this message."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line.get("event") == event]


class Member(Program):
    """One member of etcd, with the settings in ``bundle`` but on ports and in a folder of its own."""

    def __init__(self, name: str, address: str, bundle: Path, data: Path, ports: tuple[int, int], prefix: list[str]):
        client, peer = ports
        self.name, self.address, self.data, self.bundle = name, address, data, bundle
        self.endpoint = f"{address}:{client}"
        settings = bundle / "etcd.env"
        text = settings.read_text()
        for said, meant in (
            ("/etc/etcd/devopsellence", str(bundle)),
            ("/var/lib/etcd/devopsellence", str(data)),
            (":2379", f":{client}"),
            (":2380", f":{peer}"),
        ):
            text = text.replace(said, meant)
        settings.write_text(text)
        super().__init__([*prefix, "etcd"], {}, data.with_suffix(".log"))

    def start(self) -> None:
        text = (self.bundle / "etcd.env").read_text()
        said = dict(line.split("=", 1) for line in shlex.split(text))
        self.environ = {"PATH": os.environ["PATH"], **self.environ, **said, **self.extra}
        super().start()

    def wipe(self) -> None:
        """Its machine is lost."""
        assert not self.running
        shutil.rmtree(self.data)

    #: Variables beside those of the file.
    extra: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
