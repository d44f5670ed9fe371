"""Nodes that are registered by command, with real agents, beside a real controller."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from devopsellence.api.v1 import workload_pb2
from devopsellence.api.v1.stored_pb2 import Environment, Release
from devopsellence.store import acl
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.agent import Machine
from tests.support.cli import Cli
from tests.support.controller import ControllerProcess
from tests.support.etcd import EtcdServer
from tests.support.fake_agent import AgentAuthority

REF = EnvironmentRef("acme", "Shop", "production")


class Cluster:
    """An etcd with users, a controller once it is started, and machines."""

    def __init__(self, server: EtcdServer, etcd: Etcd, cli: Cli, folder: Path) -> None:
        self.server = server
        self.etcd = etcd
        self.cli = cli
        self.folder = folder
        self._machines: list[Machine] = []
        self._controller: ControllerProcess | None = None

    async def command(self, *arguments: str) -> str:
        """stdout of a command that must succeed; the loop goes on meanwhile."""
        return await asyncio.to_thread(self.cli.ok, *arguments)

    async def json(self, *arguments: str) -> dict[str, Any]:
        """The last object that a command prints that must succeed."""
        document: dict[str, Any] = json.loads((await self.command(*arguments, "-o", "json")).splitlines()[-1])
        return document

    async def error(self, *arguments: str) -> dict[str, Any]:
        """The error of a command that must fail."""
        return await asyncio.to_thread(self.cli.error, *arguments)

    async def listed(self, name: str) -> dict[str, Any]:
        """The node as ``node list`` has it."""
        nodes = (await self.json("node", "list"))["nodes"]
        found: dict[str, Any] = next(node for node in nodes if node["node"] == name)
        return found

    async def listed_as(self, name: str, state: str) -> dict[str, Any]:
        """The same, once it is in that state."""
        found: dict[str, Any] = await self.until(
            f"{name} is {state}", lambda: self.listed(name), lambda each: each["state"] == state
        )
        return found

    def controller(self) -> None:
        """Start one."""
        settings = self.server.settings(user=acl.USER_CONTROLLER)
        self._controller = ControllerProcess(settings, self.folder / "controller.log")

    def settings(self, uid: str) -> Settings:
        """How the machine ``uid`` reaches etcd: with a certificate that is for it."""
        assert isinstance(self.server.authority, AgentAuthority)
        own = self.server.authority.issue_agent(self.folder, uid)
        return replace(self.server.settings(), cert=own.cert, key=own.key)

    def machine(self, name: str, uid: str) -> Machine:
        """A machine with a certificate of its own, whose agent is not started yet; cleaned up in the end."""
        folder = self.folder / f"{name}-{uid}"
        folder.mkdir()
        made = Machine(self.etcd, self.settings(uid), folder)
        made.node, made.uid = name, uid
        self._machines.append(made)
        return made

    async def registered(self, name: str, *flags: str) -> Machine:
        """Register a node; its machine."""
        return self.machine(name, (await self.json("node", "register", name, *flags))["uid"])

    async def release(self, number: int, *services: workload_pb2.Service, nodes: tuple[str, ...]) -> None:
        """Write a release as the newest, with these nodes attached."""
        names: dict[str, Any] = {
            "organization": REF.organization,
            "project": REF.project,
            "environment": REF.environment,
        }
        made = Release(number=number, services=services, **names)
        made.rollout.progress_deadline.FromSeconds(600)
        await self.etcd.put(self.etcd.keys.release(REF, number), encode(made))
        environment = Environment(nodes=nodes, latest_release=number, **names)
        await self.etcd.put(self.etcd.keys.environment(REF), encode(environment))

    async def until(
        self, what: str, look: Callable[[], Any], holds: Callable[[Any], object], seconds: float = 40
    ) -> Any:
        """What ``look`` returns, once it ``holds``."""
        give_up = asyncio.get_running_loop().time() + seconds
        while True:
            seen = await look()
            if holds(seen):
                return seen
            if asyncio.get_running_loop().time() > give_up:
                raise AssertionError(f"{what}: never; last: {seen}")
            await asyncio.sleep(0.1)

    def users(self) -> set[str]:
        """etcd's users."""
        return set(self.server.etcdctl("user", "list").split())

    def roles(self) -> set[str]:
        return set(self.server.etcdctl("role", "list").split())

    def clean(self) -> None:
        """Leave nothing behind."""
        if self._controller is not None:
            self._controller.kill()
        for machine in self._machines:
            machine.clean()
