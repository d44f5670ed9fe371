"""Secrecy of a secret's value through every command: not in etcd, output or the list of processes."""

from __future__ import annotations

import secrets
import subprocess
import sys
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Node, Registry, Release
from devopsellence.cli.secrets import pin, registry_password
from devopsellence.cli.store.reader import Reader
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY
from tests.integration.cli.secret_operator import CONFIG, Operator, service
from tests.support.cli import REF, Cli


def registry() -> Registry:
    return Registry(repository="registry.example.com/shop", username="shop", password_secret="REGISTRY_PASSWORD")


class ObservedOperator(Operator):
    """Command line as processes; keeps the output, and records whether others could see ``canary``."""

    canary = b""
    printed = b""
    exposed = False

    def start(self, *arguments: str, value: bytes = b"", **environ: str) -> int:
        """Run a command with ``value`` on stdin; return the exit code."""
        variables = {**self.process_environ(), **environ}
        command = [sys.executable, "-m", "devopsellence.cli", *arguments]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(value)
            process.stdin.close()
            # Looks at all processes whenever it has printed something; it is there until its output ends.
            while line := process.stdout.readline():
                self.printed += line
                self.exposed = self.exposed or self.canary in processes()
        return process.returncode


def processes() -> bytes:
    """The command lines and environments of all processes."""
    seen = []
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                seen.append((folder / name).read_bytes())
    return b"\0".join(seen)


@pytest.fixture
def ann(cli: Cli, tmp_path: Path) -> ObservedOperator:
    (cli.folder / "devopsellence.yml").write_text(CONFIG)
    return ObservedOperator(cli.settings, cli.folder, tmp_path / "ann" / "operator.age")


def test_secret_value_is_never_exposed(ann: ObservedOperator, tmp_path: Path) -> None:
    ann.canary = value = f"canary-{secrets.token_hex(16)}".encode()
    forms = cycle(["text", "json"])
    dumps = []

    def run(*arguments: str, stdin: bytes = b"", fails: bool = False, **environ: str) -> None:
        code = ann.start(*arguments, "--debug", "-o", next(forms), value=stdin, **environ)
        assert (code != 0) == fails, (arguments, ann.printed[-2000:])
        dumps.append(ann.dump())

    web, worker = ["--service", "web", "--stdin"], ["--service", "worker", "--stdin"]
    ann.node("n1")
    run("secret", "set", "DATABASE_URL", *web, stdin=value)
    run("secret", "set", "DATABASE_URL", *web, stdin=value)
    run("secret", "set", "TOKEN", *worker, stdin=value + b"\n")
    run("secret", "set", "REGISTRY_PASSWORD", "--registry", "--stdin", stdin=value)
    run("secret", "list")
    run("node", "attach", "n1")
    draft = Release(services=[service("web", DATABASE_URL=0), service("worker", TOKEN=0)], registry=registry())

    async def deploy(etcd: Etcd) -> str:
        node = await Reader(etcd).get(etcd.keys.node("n1"), Node)
        assert node is not None
        await pin(etcd, REF, draft, nodes=[node])
        return await registry_password(etcd, REF, draft.registry)

    with ann.being():
        assert ann.etcd(deploy) == value.decode()
    ann.release(1, *draft.services, registry=draft.registry)
    # Whatever goes wrong.
    for problem in (b"\0", b"\xff", b"x" * 70000):
        run("secret", "set", "DATABASE_URL", *web, stdin=value + problem, fails=True)
    run("secret", "set", "DATABASE_URL", *web, "--apply", "--env", "a/b/c", stdin=value, fails=True)
    run("secret", "set", "NO_SUCH", "--service", "nobody", "--stdin", stdin=value, fails=True)
    run("secret", "delete", "DATABASE_URL", "--service", "web", "--yes", fails=True)
    run("secret", "set", "TOKEN", *worker, stdin=value, fails=True, DEVOPSELLENCE_ETCD_ENDPOINTS="127.0.0.1:1")
    stranger = str(tmp_path / "stranger.age")
    run("secret", "reencrypt", fails=True, DEVOPSELLENCE_IDENTITY=stranger)
    run("secret", "set", "TOKEN", *worker, stdin=value, DEVOPSELLENCE_IDENTITY=stranger)
    run("secret", "reencrypt")
    ann.write(lambda etcd: etcd.keys.secret(REF, "web", "DATABASE_URL"), b"garbage")
    run("secret", "set", "DATABASE_URL", *web, stdin=value, fails=True)
    run("node", "detach", "n1", "-y")
    run("events")
    run("secret", "delete", "TOKEN", "--service", "worker", "--yes", "--force")

    assert not ann.exposed
    for seen in (ann.printed, *dumps, *(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())):
        assert value not in seen


def test_registry_password_is_in_no_error(ann: ObservedOperator) -> None:
    value = f"canary-{secrets.token_hex(16)}"
    ann.set("REGISTRY_PASSWORD", value.encode(), service=REGISTRY)
    ann.path.unlink()
    with ann.being(), pytest.raises(Exception, match="cannot decrypt secret") as caught:
        ann.etcd(lambda etcd: registry_password(etcd, REF, registry()))
    assert value not in repr(caught.value)
