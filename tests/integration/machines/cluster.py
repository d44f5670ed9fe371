"""Nodes registered by command, with agents and a controller as processes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from devopsellence.api.v1 import workload_pb2
from devopsellence.api.v1.stored_pb2 import Environment, Release
from devopsellence.store.codec import encode
from devopsellence.store.settings import Settings
from tests.support.agent import AgentNode
from tests.support.authority import settings_with
from tests.support.cli import REF, Cli
from tests.support.controller import ControllerProcess
from tests.support.gateway import RunningGateway
from tests.support.until import eventually


class AgentCluster:
    """A gateway to an etcd, a controller once :meth:`controller` is called, and nodes with agents.

    ``etcd`` is a connection to etcd itself, with the settings ``direct`` of a controller.
    """

    def __init__(self, settings: Settings, gateway: RunningGateway, cli: Cli, folder: Path) -> None:
        self.gateway = gateway
        self.etcd = gateway.direct
        self.direct = settings
        self.cli = cli
        self.folder = folder
        self._machines: list[AgentNode] = []
        self._controller: ControllerProcess | None = None

    async def command(self, *arguments: str) -> str:
        """Run a command that must succeed in a thread; return stdout."""
        return await asyncio.to_thread(self.cli.ok, *arguments)

    async def json(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must succeed; return the last JSON object."""
        document: dict[str, Any] = json.loads((await self.command(*arguments, "-o", "json")).splitlines()[-1])
        return document

    async def error(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must fail; return the error object."""
        return await asyncio.to_thread(self.cli.error, *arguments)

    async def listed(self, name: str) -> dict[str, Any]:
        """Return the node as shown by ``node list``."""
        nodes = (await self.json("node", "list"))["nodes"]
        node: dict[str, Any] = next(node for node in nodes if node["node"] == name)
        return node

    async def listed_as(self, name: str, state: str) -> dict[str, Any]:
        """Return the node as shown by ``node list``, once ``state`` is reached."""
        return await eventually(
            f"{name} is {state}", lambda: self.listed(name), lambda node: node["state"] == state, seconds=40
        )

    def controller(self) -> None:
        """Start a controller."""
        self._controller = ControllerProcess(self.direct, self.folder / "controller.log")

    def settings(self, uid: str) -> Settings:
        """Return settings with the certificate of node ``uid``, as of an agent."""
        return settings_with(self.gateway.root(), self.gateway.authority.issue_agent(uid))

    def machine(self, name: str, uid: str) -> AgentNode:
        """Return a node with a new certificate and an agent not started yet; :meth:`clean` removes the node."""
        folder = self.folder / f"{name}-{uid}"
        folder.mkdir()
        node = AgentNode(self.etcd, self.settings(uid), folder)
        node.name, node.uid = name, uid
        self._machines.append(node)
        return node

    async def registered(self, name: str, *flags: str) -> AgentNode:
        """Register a node; return the node with an agent not started yet."""
        return self.machine(name, (await self.json("node", "register", name, *flags))["uid"])

    async def release(self, number: int, *services: workload_pb2.Service, nodes: tuple[str, ...]) -> None:
        """Write the newest release, with these nodes attached."""
        names: dict[str, Any] = {
            "organization": REF.organization,
            "project": REF.project,
            "environment": REF.environment,
        }
        release = Release(number=number, services=services, **names)
        release.rollout.progress_deadline.FromSeconds(600)
        await self.etcd.put(self.etcd.keys.release(REF, number), encode(release))
        environment = Environment(nodes=nodes, latest_release=number, **names)
        await self.etcd.put(self.etcd.keys.environment(REF), encode(environment))

    def clean(self) -> None:
        """End all processes and remove the objects of the nodes."""
        if self._controller is not None:
            self._controller.end()
        for machine in self._machines:
            machine.clean()
