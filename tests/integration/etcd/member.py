"""Member of etcd, with the settings written by ``cluster init``."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from tests.support.process import Program


class Member(Program):
    """Member of etcd with the settings in ``bundle``, except for ports and data folder."""

    def __init__(self, name: str, address: str, bundle: Path, data: Path, ports: tuple[int, int], prefix: list[str]):
        client, peer = ports
        self.name, self.address, self.data, self.bundle = name, address, data, bundle
        self.endpoint = f"{address}:{client}"
        settings = bundle / "etcd.env"
        text = settings.read_text()
        for default, value in (
            ("/etc/etcd/devopsellence", str(bundle)),
            ("/var/lib/etcd/devopsellence", str(data)),
            (":2379", f":{client}"),
            (":2380", f":{peer}"),
        ):
            text = text.replace(default, value)
        settings.write_text(text)
        super().__init__([*prefix, "etcd"], {}, data.with_suffix(".log"))

    def start(self) -> None:
        text = (self.bundle / "etcd.env").read_text()
        variables = dict(line.split("=", 1) for line in shlex.split(text))
        self.environ = {"PATH": os.environ["PATH"], **self.environ, **variables, **self.extra}
        super().start()

    def wipe(self) -> None:
        """Delete the data, as if the machine were lost."""
        assert not self.running
        shutil.rmtree(self.data)

    #: Variables in addition to those of the file.
    extra: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
