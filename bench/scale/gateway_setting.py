"""Environment of the gateway scenarios: etcd with TLS, two controllers with gateways, nodes with certificates."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from bench.hollow.fleet import certificate_of, registrations, uid_of
from bench.hollow.names import node_names
from bench.scale.setting import Setting, memory, put_all
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import USER_CONTROLLER, user_of_node
from devopsellence.store.settings import Settings
from tests.support.authority import Authority
from tests.support.controller import ControllerProcess
from tests.support.etcd import EtcdServer
from tests.support.ports import free_ports

CONTROLLERS: Final = 2


@dataclass(frozen=True)
class GatewaySetting:
    """An etcd, and controllers whose gateways lead to it; ``through`` has the addresses of all gateways."""

    where: Setting
    through: Settings
    certificates: Path
    controllers: Sequence[ControllerProcess]

    @property
    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(controller.pid) for controller in self.controllers]

    def processor_seconds(self) -> list[float]:
        """Return the CPU seconds used so far by each controller with its gateway."""
        used = [process.cpu_times() for process in self.processes]
        return [float(times.user + times.system) for times in used]

    def memory_mib(self) -> list[float]:
        """Return the current memory of each controller with its gateway."""
        return [float(process.memory_info().rss) / 2**20 for process in self.processes]

    def node(self, settings: Settings, name: str) -> Settings:
        """Return ``settings`` with the certificate of a node."""
        certificate, key = certificate_of(self.certificates, name)
        return replace(settings, cert=certificate, key=key)

    @property
    def standby(self) -> ControllerProcess:
        """The controller that does not lead."""
        return next(controller for controller in self.controllers if not _leads(controller))


def _leads(controller: ControllerProcess) -> bool:
    return len(controller.lines("leading")) > len(controller.lines("not leading"))


@contextlib.asynccontextmanager
async def gateway_setting(count: int, *, gateways: bool = True) -> AsyncIterator[GatewaySetting]:
    """Start etcd and two controllers, and register ``count`` nodes, without agents.

    Without ``gateways``, ``through`` leads to etcd: agents that know of gateways would use them as well.
    """
    with (
        tempfile.TemporaryDirectory(prefix="bench-gateways-", dir=memory()) as made,
        tempfile.TemporaryDirectory(prefix="devopsellence-etcd-") as data,
    ):
        folder = Path(made)
        authority = Authority(folder / "ca")
        nodes = node_names(count)
        for name in nodes:
            authority.issue(user_of_node(uid_of(name)), file=name)
        with EtcdServer(Path(data), authority=authority) as server:
            settings = server.settings(user=USER_CONTROLLER)
            async with Etcd(settings) as etcd:
                await put_all(etcd, registrations(etcd, nodes, ["web"]))
                addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(CONTROLLERS)) if gateways else ()
                async with _controllers(settings, authority, folder, addresses) as controllers:
                    where = Setting(server, settings, etcd, None, nodes)
                    through = replace(settings, endpoints=addresses or settings.endpoints)
                    yield GatewaySetting(where, through, authority.ca_cert.parent, controllers)


@contextlib.asynccontextmanager
async def _controllers(
    settings: Settings, authority: Authority, folder: Path, addresses: Sequence[str]
) -> AsyncIterator[list[ControllerProcess]]:
    """Start controllers, with a gateway at each of ``addresses``."""
    files = authority.issue_server(USER_CONTROLLER)
    certificate = (f"--gateway-cert={files.certificate}", f"--gateway-key={files.key}") if addresses else ()
    listening = [(f"--gateway-listen={address}", *certificate) for address in addresses] or [()] * CONTROLLERS
    controllers: list[ControllerProcess] = []
    try:
        for number, options in enumerate(listening):
            controllers.append(ControllerProcess(settings, folder / f"controller-{number}.log", *options))
        for controller in controllers:
            for event in ("gateway started", "standing by") if addresses else ("standing by",):
                await controller.logged(event)
        yield controllers
    finally:
        for controller in controllers:
            controller.end(signal.SIGKILL)
