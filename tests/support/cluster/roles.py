"""Roles of the machines: hosts, members of etcd, controllers. Links can be cut, programs killed.

Paths and ports are those of the commands and the documentation; programs start with the output of ``cluster init`` and
``node register``.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, Final

from devopsellence.cli.cluster.programs import CONTROLLER_HOME, ETCD_HOME
from devopsellence.nodeagent.docker.names import LABEL_ENVIRONMENT, LABEL_MANAGED, LABEL_ROUTER
from devopsellence.store.settings_file import AGENT_HOME
from tests.support.cluster.machine import Machine, Program, wait_for
from tests.support.cluster.network import Switch
from tests.support.until import until

_CONTAINERD: Final = "run/docker/containerd/containerd.pid"


class LinkedMachine(Machine):
    """Machine on the switch of the bed."""

    def __init__(self, name: str, address: str, folder: Path, logs: Path, switch: Switch) -> None:
        super().__init__(name, address, folder, logs)
        self._switch = switch

    def switch_on(self) -> None:
        """Start the machine and connect the link."""
        super().switch_on()
        self._switch.connect(self)

    def cut(self) -> None:
        """Cut the link: packets are lost without an error."""
        self._switch.cut(self)

    def join(self) -> None:
        """Restore the link."""
        self._switch.join(self)

    @property
    def programs(self) -> tuple[Program, ...]:
        """Programs of the machine, in start order."""
        raise NotImplementedError

    def start(self) -> None:
        """Start all stopped programs."""
        for program in self.programs:
            if not program.running:
                program.start()

    def kill(self) -> None:
        """Kill all programs with SIGKILL."""
        for program in reversed(self.programs):
            program.kill()


class Host(LinkedMachine):
    """Machine with a Docker Engine and an agent."""

    @property
    def agent(self) -> Program:
        return self.program("agent")

    @property
    def engine(self) -> Program:
        return self.program("dockerd")

    @property
    def programs(self) -> tuple[Program, ...]:
        return (self.engine, self.agent)

    def describe_engine(self, cgroup: str) -> None:
        """Set the command of the engine; its containers are below ``cgroup``, which is removed with the bed."""
        own = f"/{cgroup}/{self.name}"
        self.engine.describe(["dockerd", "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", own])

    def install_agent(self, bundle: Path, command: str, *options: str) -> None:
        """Copy the node's bundle here, and set the command of the agent: that of ``node register`` with ``options``."""
        self.copy(bundle, AGENT_HOME)
        _, *arguments = (*shlex.split(command), *options)
        # As the systemd unit has it.
        self.agent.python("devopsellence.nodeagent", *arguments, variables={"MALLOC_ARENA_MAX": "2"})

    def wait_engine(self) -> None:
        """Return once the engine answers."""
        wait_for("Docker", self.engine, ["docker", "version"])

    def start_agent(self) -> None:
        self.agent.start()

    def kill_agent(self) -> None:
        self.agent.kill()

    def pause_agent(self) -> None:
        self.agent.pause()

    def resume_agent(self) -> None:
        self.agent.resume()

    def start_docker(self) -> None:
        """Start the engine and return once it answers."""
        self.engine.start()
        self.wait_engine()

    def kill_docker(self) -> None:
        """Kill the engine with SIGKILL; the containers live on."""
        containerd = int((self.root / _CONTAINERD).read_text())
        self.engine.kill()
        # It dies with the engine; until it is gone, the next engine would take it for alive and wait in vain.
        until("containerd is gone", lambda: not (self.root / "proc" / str(containerd)).exists())
        (self.root / _CONTAINERD).unlink(missing_ok=True)

    def docker(self, *arguments: str) -> str:
        """Return the output of ``docker ARGUMENTS`` on the host."""
        return self.run("docker", *arguments).stdout.strip()

    def load_image(self, archive: Path) -> None:
        """Load an image archive written by ``docker save``."""
        self.run("docker", "load", "--quiet", "--input", str(archive))

    def routers(self) -> list[dict[str, Any]]:
        """Return the Envoy containers of the agents, in the form of ``docker inspect``."""
        return self._inspect(f"label={LABEL_MANAGED}=true", f"label={LABEL_ROUTER}")

    def containers(self, *filters: str) -> list[dict[str, Any]]:
        """Return the containers of environments, running or not, in the form of ``docker inspect``."""
        return self._inspect(f"label={LABEL_MANAGED}=true", f"label={LABEL_ENVIRONMENT}", *filters)

    def _inspect(self, *filters: str) -> list[dict[str, Any]]:
        chosen = [word for condition in filters for word in ("--filter", condition)]
        ids = self.docker("ps", "--all", "--quiet", "--no-trunc", *chosen).split()
        # One that goes in between is not missed: what is left is asked for.
        seen = self.run("docker", "inspect", "--type", "container", *ids, check=False).stdout if ids else "[]"
        containers: list[dict[str, Any]] = json.loads(seen)
        return containers


class Member(LinkedMachine):
    """Machine with a member of etcd."""

    @property
    def etcd(self) -> Program:
        return self.program("etcd")

    @property
    def programs(self) -> tuple[Program, ...]:
        return (self.etcd,)

    def install(self, bundle: Path) -> None:
        """Copy the member's bundle here; the command starts with the variables of ``etcd.env``."""
        self.copy(bundle, ETCD_HOME)
        self.etcd.describe(["etcd", "--log-level", "warn"], read_variables(bundle / "etcd.env"))

    def pause(self) -> None:
        self.etcd.pause()

    def resume(self) -> None:
        self.etcd.resume()


class ControllerMachine(LinkedMachine):
    """Machine with a controller; the name of the machine is the identity in the election."""

    @property
    def controller(self) -> Program:
        return self.program("controller")

    @property
    def programs(self) -> tuple[Program, ...]:
        return (self.controller,)

    def install(self, bundle: Path, *options: str) -> None:
        """Copy the controllers' bundle here; the command starts with ``controller.env`` and ``options``."""
        self.copy(bundle, CONTROLLER_HOME)
        settings = read_variables(bundle / "controller.env")
        self.controller.python("devopsellence.controller", "--identity", self.name, *options, variables=settings)

    def stop(self) -> None:
        """Stop the controller with SIGTERM, as a service manager does."""
        self.controller.stop()

    def pause(self) -> None:
        self.controller.pause()

    def resume(self) -> None:
        self.controller.resume()


def read_variables(file: Path) -> dict[str, str]:
    """Return the variables of a settings file, parsed like systemd's ``EnvironmentFile=``."""
    return dict(word.split("=", 1) for word in shlex.split(file.read_text()))
