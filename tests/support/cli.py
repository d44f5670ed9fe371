"""Commands of ``devopsellence`` run in this process."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from click.testing import CliRunner, Result
from google.protobuf.message import Message

from devopsellence.cli.main import main
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.process import python_environ

M = TypeVar("M", bound=Message)
T = TypeVar("T")
REF = EnvironmentRef("acme", "Shop", "production")
NO_DEV_CLUSTER = "/nonexistent/devopsellence"


class Cli:
    """Command line in ``folder``, with an etcd under a prefix of the test's own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        #: Settings of :meth:`etcd`: behind a gateway, those of etcd itself, for records that others write.
        self.direct = settings
        self.folder = folder
        self.environ = {**settings.to_environ(), "DEVOPSELLENCE_HOME": NO_DEV_CLUSTER}

    def process_environ(self) -> dict[str, str]:
        """Return the variables of a command run as a process of its own."""
        return python_environ({**os.environ, **self.environ})

    def run(self, *arguments: str) -> Result:
        return CliRunner(env=self.environ).invoke(main, list(arguments))

    def ok(self, *arguments: str) -> str:
        """Run a command that must succeed; return stdout."""
        result = self.run(*arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        return result.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run a bounded command that must succeed; return the JSON document."""
        document: dict[str, Any] = json.loads(self.ok(*arguments, "-o", "json"))
        assert document["ok"]
        return document

    def json_lines(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a streaming command that must succeed; return all JSON objects."""
        return [json.loads(line) for line in self.ok(*arguments, "-o", "json").splitlines()]

    def error(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must fail; return the error object, after a check of the exit code."""
        result = self.run(*arguments, "-o", "json")
        assert result.exit_code != 0
        error: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])["error"]
        assert error["exit_code"] == result.exit_code
        return error

    def etcd(self, work: Callable[[Etcd], Awaitable[T]]) -> T:
        """Return the result of ``work`` on a connection to etcd, see ``direct``."""

        async def connected() -> T:
            async with Etcd(self.direct) as etcd:
                return await work(etcd)

        return asyncio.run(connected())

    def read(self, key: Callable[[Etcd], str], kind: type[M]) -> M | None:
        """Return the record at a key; None if there is none."""

        async def work(etcd: Etcd) -> M | None:
            record = await etcd.get(key(etcd))
            return decode(kind, record.key, record.value) if record else None

        return self.etcd(work)

    def write(self, key: Callable[[Etcd], str], message: Message | bytes) -> None:
        """Store a record, or raw bytes."""
        value = message if isinstance(message, bytes) else encode(message)
        self.etcd(lambda etcd: etcd.put(key(etcd), value))
