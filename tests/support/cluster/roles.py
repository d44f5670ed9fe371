"""What the machines of a bed are for: hosts, members of etcd, controllers. Each can be cut off, its programs killed.

Their paths and ports are those that the commands and the documentation name; what is started is what ``cluster init``
and ``node register`` say.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, Final

from devopsellence.cli.cluster.programs import AGENT_HOME, CONTROLLER_HOME, ETCD_HOME
from devopsellence.nodeagent.docker.names import LABEL_ENVIRONMENT, LABEL_MANAGED, LABEL_ROUTER
from tests.support.cluster.machine import Machine, Program, wait_for
from tests.support.cluster.network import Switch
from tests.support.until import until

_CONTAINERD: Final = "run/docker/containerd/containerd.pid"


class Linked(Machine):
    """A machine on the bed's switch."""

    def __init__(self, name: str, address: str, folder: Path, logs: Path, switch: Switch) -> None:
        super().__init__(name, address, folder, logs)
        self._switch = switch

    def switch_on(self) -> None:
        """With its link."""
        super().switch_on()
        self._switch.connect(self)

    def cut(self) -> None:
        """Cut its link: nothing gets through, and nobody is told."""
        self._switch.cut(self)

    def join(self) -> None:
        """Mend its link."""
        self._switch.join(self)

    @property
    def programs(self) -> tuple[Program, ...]:
        """What is meant to run on it, in the order of a start."""
        raise NotImplementedError

    def start(self) -> None:
        """Start what does not run."""
        for program in self.programs:
            if not program.running:
                program.start()

    def kill(self) -> None:
        """``kill -9`` its programs."""
        for program in reversed(self.programs):
            program.kill()


class Host(Linked):
    """Runs a Docker Engine and an agent."""

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
        """``cgroup``: below which its containers are counted, to be removed with the bed."""
        own = f"/{cgroup}/{self.name}"
        self.engine.describe(["dockerd", "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", own])

    def install_agent(self, bundle: Path, command: str, *options: str) -> None:
        """Carry the node's bundle here, and start the agent with what ``node register`` says from now on, and with
        ``options``."""
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
        """``kill -9`` the engine; the containers live on."""
        containerd = int((self.root / _CONTAINERD).read_text())
        self.engine.kill()
        # It dies with the engine; until it is gone, the next engine would take it for alive and wait in vain.
        until("containerd is gone", lambda: not (self.root / "proc" / str(containerd)).exists())
        (self.root / _CONTAINERD).unlink(missing_ok=True)

    def docker(self, *arguments: str) -> str:
        """What ``docker ARGUMENTS`` prints there."""
        return self.run("docker", *arguments).stdout.strip()

    def load_image(self, archive: Path) -> None:
        """Bring an image here that ``docker save`` has written."""
        self.run("docker", "load", "--quiet", "--input", str(archive))

    def routers(self) -> list[dict[str, Any]]:
        """The containers that its agents route requests with, as ``docker inspect`` shows them."""
        return self._inspect(f"label={LABEL_MANAGED}=true", f"label={LABEL_ROUTER}")

    def containers(self, *filters: str) -> list[dict[str, Any]]:
        """All of environments that its agents made, running or not, as ``docker inspect`` shows them."""
        return self._inspect(f"label={LABEL_MANAGED}=true", f"label={LABEL_ENVIRONMENT}", *filters)

    def _inspect(self, *filters: str) -> list[dict[str, Any]]:
        chosen = [word for each in filters for word in ("--filter", each)]
        ids = self.docker("ps", "--all", "--quiet", "--no-trunc", *chosen).split()
        # One that goes in between is not missed: what is left is asked for.
        seen = self.run("docker", "inspect", "--type", "container", *ids, check=False).stdout if ids else "[]"
        found: list[dict[str, Any]] = json.loads(seen)
        return found


class Member(Linked):
    """Runs a member of etcd."""

    @property
    def etcd(self) -> Program:
        return self.program("etcd")

    @property
    def programs(self) -> tuple[Program, ...]:
        return (self.etcd,)

    def install(self, bundle: Path) -> None:
        """Carry the member's bundle here; its ``etcd.env`` says how it is started."""
        self.copy(bundle, ETCD_HOME)
        self.etcd.describe(["etcd", "--log-level", "warn"], variables(bundle / "etcd.env"))

    def pause(self) -> None:
        self.etcd.pause()

    def resume(self) -> None:
        self.etcd.resume()


class ControllerPlace(Linked):
    """Runs a controller, whose identity in the election is the machine's name."""

    @property
    def controller(self) -> Program:
        return self.program("controller")

    @property
    def programs(self) -> tuple[Program, ...]:
        return (self.controller,)

    def install(self, bundle: Path, *options: str) -> None:
        """Carry the controllers' bundle here; its ``controller.env`` and ``options`` say how it is started."""
        self.copy(bundle, CONTROLLER_HOME)
        settings = variables(bundle / "controller.env")
        self.controller.python("devopsellence.controller", "--identity", self.name, *options, variables=settings)

    def stop(self) -> None:
        """As its service manager would."""
        self.controller.stop()

    def pause(self) -> None:
        self.controller.pause()

    def resume(self) -> None:
        self.controller.resume()


def variables(file: Path) -> dict[str, str]:
    """What a settings file says, as systemd's ``EnvironmentFile=`` reads it."""
    return dict(word.split("=", 1) for word in shlex.split(file.read_text()))
