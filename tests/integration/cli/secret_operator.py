"""Operators with identities, and nodes with age keys, for the tests of secrets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from devopsellence.age import AgeIdentity
from devopsellence.api.v1.stored_pb2 import Environment, Heartbeat, Node, Registry, Release, Secret
from devopsellence.api.v1.workload_pb2 import Image, SecretRef, Service
from devopsellence.cli.access_token import IDENTITY
from devopsellence.cli.main import main
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.cli import REF, Cli

CONFIG = """\
schema_version: 1
organization: acme
project: Shop
services:
  web:
    image: shop:1
    ports: [{name: http, port: 3000}]
    healthcheck: {path: /up}
    secret_refs:
      - {name: DATABASE_URL, secret: DATABASE_URL}
  worker:
    image: shop:1
    secret_refs:
      - {name: TOKEN, secret: TOKEN}
registry:
  repository: registry.example.com/shop
  username: shop
  password_secret: REGISTRY_PASSWORD
"""


class Operator(Cli):
    """Command line of an operator with the identity in the file ``identity``."""

    def __init__(self, settings: Settings, folder: Path, path: Path) -> None:
        super().__init__(settings, folder)
        self.path = path
        self.environ[IDENTITY] = str(path)

    def piped(self, value: bytes, *arguments: str) -> Result:
        """Run a command with ``value`` on stdin."""
        return CliRunner(env=self.environ).invoke(main, list(arguments), input=value)

    def set(self, name: str, value: bytes, *flags: str, service: str = "web") -> Result:
        """Run ``secret set`` with the value on stdin, which must succeed."""
        scope = ["--registry"] if service == "_registry" else ["--service", service]
        result = self.piped(value, "secret", "set", name, *scope, "--stdin", *flags)
        assert result.exit_code == 0, (result.output, result.exception)
        return result

    @contextmanager
    def being(self) -> Iterator[None]:
        """Set the variables of the operator in this process, as while a command runs."""
        before = os.environ.get(IDENTITY)
        os.environ[IDENTITY] = str(self.path)
        try:
            yield
        finally:
            del os.environ[IDENTITY]
            if before is not None:
                os.environ[IDENTITY] = before

    def stored(self, name: str, service: str = "web") -> Secret | None:
        return self.read(lambda etcd: etcd.keys.secret(REF, service, name), Secret)

    def versions(self, name: str, service: str = "web") -> list[int]:
        secret = self.stored(name, service)
        return [version.version for version in secret.versions] if secret else []

    def newest(self) -> Release:
        """The newest release."""

        async def work(etcd: Etcd) -> Release:
            record = await etcd.get(etcd.keys.environment(REF))
            assert record is not None
            number = decode(Environment, record.key, record.value).latest_release
            item = await etcd.get(etcd.keys.release(REF, number))
            assert item is not None
            return decode(Release, item.key, item.value)

        return self.etcd(work)

    def dump(self) -> bytes:
        """Every key and value under the test's prefix."""

        async def work(etcd: Etcd) -> bytes:
            listing = await etcd.list(etcd.keys.prefix)
            return b"\n".join(item.key.encode() + b" " + item.value for item in listing.items)

        return self.etcd(work)

    def node(self, name: str, *, key: AgeIdentity | None = None, labels: str = "web,worker") -> AgeIdentity:
        """Register node ``name``, with an agent that has reported its age key."""
        key = key or AgeIdentity.generate()
        uid = self.json("node", "register", name, "--labels", labels)["uid"]
        self.beat(name, uid, key.recipient)
        return key

    def beat(self, name: str, uid: str, recipient: str) -> None:
        beat = Heartbeat(node=name, uid=uid, age_recipient=recipient)
        self.write(lambda etcd: etcd.keys.heartbeat(name), beat)

    def uid(self, name: str) -> str:
        node = self.read(lambda etcd: etcd.keys.node(name), Node)
        assert node is not None
        return node.uid

    def release(self, number: int, *services: Service, registry: Registry | None = None) -> None:
        """Write the newest release of the environment."""

        async def work(etcd: Etcd) -> None:
            await put_release(etcd, REF, number, services, registry)

        self.etcd(work)


async def put_release(
    etcd: Etcd, ref: EnvironmentRef, number: int, services: Iterable[Service], registry: Registry | None = None
) -> None:
    names: dict[str, Any] = {"organization": ref.organization, "project": ref.project, "environment": ref.environment}
    release = Release(number=number, services=services, registry=registry, **names)
    key = etcd.keys.environment(ref)
    record = await etcd.get(key)
    environment = decode(Environment, key, record.value) if record else Environment(**names)
    environment.latest_release = number
    await etcd.put(etcd.keys.release(ref, number), encode(release))
    await etcd.put(key, encode(environment))


def service(name: str, **secrets: int) -> Service:
    """Return a service that refers to versions of secrets; each secret is called like its variable."""
    refs = [SecretRef(name=secret, secret=secret, version=version) for secret, version in secrets.items()]
    kind = Service.WEB if name == "web" else Service.WORKER
    image = Image(reference="shop:1", pinned=f"sha256:{'0' * 64}", app=True)
    return Service(name=name, kind=kind, image=image, secret_refs=refs)


def opened(key: AgeIdentity, operator: Operator, name: str = "DATABASE_URL", service: str = "web") -> bytes:
    secret = operator.stored(name, service)
    assert secret is not None
    return key.decrypt(secret.versions[-1].age)


def own(operator: Operator) -> AgeIdentity:
    return AgeIdentity(operator.path.read_text())
