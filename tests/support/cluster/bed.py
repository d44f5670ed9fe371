"""The bed: its machines, set up as a cluster through the commands of an operator."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from devopsellence.api.v1.stored_pb2 import Candidate, Heartbeat
from devopsellence.atomic_file import write_atomic
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.cluster.machine import Machine, environ
from tests.support.cluster.network import Switch, address
from tests.support.cluster.roles import ControllerMachine, Host, LinkedMachine, Member
from tests.support.envoy import envoy_archive, envoy_image
from tests.support.run import run
from tests.support.until import until

T = TypeVar("T")
M = TypeVar("M", bound=LinkedMachine)
_FIRST_ADDRESS: Final = {"e": 11, "c": 31, "n": 51}
_CGROUPS: Final = Path("/sys/fs/cgroup")
_SETTLE_SECONDS: Final = 90.0


@dataclass(frozen=True)
class BedSize:
    """Number of machines of each role."""

    hosts: int = 3
    members: int = 3
    controllers: int = 2


class Bed:
    """Bed in ``folder``; the caller removes the folder.

    As a context manager, the bed is up inside the block and gone afterwards, also if this process is killed.
    """

    def __init__(self, folder: Path, size: BedSize | None = None) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._record = folder / "bed.json"
        record = json.loads(self._record.read_bytes()) if self._record.exists() else {}
        self.size = size or BedSize(**record.get("size", {}))
        self.number = int(record.get("number", -1))
        self.variables: dict[str, str] = record.get("variables", {})
        self.switch = Switch(self._place("switch"), self.logs)
        self.hosts: dict[str, Host] = {}
        self.etcd: dict[str, Member] = {}
        self.controllers: dict[str, ControllerMachine] = {}
        self._name_machines()
        self._guard: subprocess.Popen[bytes] | None = None

    # --- all of it

    @property
    def machines(self) -> dict[str, LinkedMachine]:
        """All machines by name, without the switch."""
        return {**self.etcd, **self.controllers, **self.hosts}

    @property
    def exists(self) -> bool:
        """True from :meth:`up` to :meth:`down`, in whatever process."""
        return self._record.exists()

    def __enter__(self) -> Self:
        self._watch_over()
        try:
            self.up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.down()
        if self._guard is not None:
            self._guard.communicate(timeout=60)

    def up(self) -> None:
        """Start all stopped programs, set up the rest, and return once everything is ready."""
        for folder in (self.folder, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.switch.on:
            # Addresses come with the switch; what was set up for others (before a reboot) is of no use.
            self.down()
            self.switch.switch_on()
            self.number = self.switch.connect_operator()
            self._name_machines()
            self._remember()
        with ThreadPoolExecutor(8) as pool:
            _all(
                pool,
                lambda machine: machine.switch_on(),
                [machine for machine in self.machines.values() if not machine.on],
            )
            for host in self.hosts.values():
                host.describe_engine(self._cgroup)
            engines = [pool.submit(self._start_engine, host) for host in self.hosts.values()]
            self._start_etcd()
            self.start_controllers()
            _all(pool, self.enlist, self.hosts.values())
            for work in engines:
                work.result()
        self.wait()

    def down(self) -> None:
        """End all processes and forget the bed; logs stay. May be repeated, also after a failure."""
        folders = [folder for folder in (self.folder / "machines").glob("*") if folder.is_dir()]
        with ThreadPoolExecutor(8) as pool:
            # Those on disk, whatever they are called: one that was replaced, or one of a bed of another size.
            known: dict[str, Machine] = {machine.port: machine for machine in (*self.machines.values(), self.switch)}
            _all(pool, lambda at: known.get(at.name, Machine(at.name, "", at, self.logs)).switch_off(), folders)
            _all(pool, lambda at: shutil.rmtree(at), folders)
        if self.number >= 0:
            _remove_cgroups(self._cgroup)
        for name in ("machines", "home"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self._record.unlink(missing_ok=True)

    # --- parts of it

    def enlist(self, host: Host, *options: str) -> None:
        """Register the node, copy the bundle to the host, and start the agent unless running."""
        document = self.json(
            "node", "register", host.name, "--labels", "web,worker", "--address", host.address, *options
        )
        host.install_agent(Path(document["bundle"]), document["agent_command"], f"--envoy-image={envoy_image()}")
        if not host.agent.running:
            host.start_agent()

    def replace(self, name: str) -> Host:
        """Replace a host by another machine with another address under the same name.

        Return the machine before, untouched: the caller switches that machine off.
        """
        before = self.hosts[name]
        used = sum(1 for machine in (self.folder / "machines").glob("n*"))
        host_address = address(self.number, _FIRST_ADDRESS["n"] + used)
        host = Host(name, host_address, self._place(f"{name}-{used}"), self.logs, self.switch)
        host.switch_on()
        host.describe_engine(self._cgroup)
        self._start_engine(host)
        self.hosts[name] = host
        self.enlist(host, "--replace", "-y")
        self.wait()
        return before

    def trust(self, authority: Path) -> None:
        """Restart the controllers with the authority of an ACME server's own certificate."""
        for controller in self.controllers.values():
            controller.controller.stop()
            controller.install(self._controllers, f"--acme-ca-cert={authority}")
            controller.start()
        self.wait()

    def take(self, variables: Mapping[str, str]) -> None:
        """Use the variables that ``cluster init`` has printed."""
        self.variables = dict(variables)
        self._remember()

    def restart_member(self, name: str) -> None:
        """Restart a member of etcd with its present bundle; return once all members answer."""
        self.etcd[name].etcd.stop()
        self._install_member(name)
        self.etcd[name].start()
        until("etcd answers", self._etcd_answers, every=0.1)

    def renew_members(self) -> None:
        """Copy the present bundles of etcd's members to their machines, and restart nothing."""
        for name in self.etcd:
            self._install_member(name)

    def restart_controllers(self) -> None:
        """Restart the controllers with their present bundle, one after the other."""
        for controller in self.controllers.values():
            controller.stop()
            controller.install(self._controllers)
            controller.start()
            self.wait()

    def cut_power(self) -> None:
        """Switch all machines off and on; return once everything is ready. Only the disks are as before."""
        for machine in self.machines.values():
            machine.switch_off()
        for machine in self.machines.values():
            machine.switch_on()
            machine.start()
        until("etcd answers", self._etcd_answers, seconds=_SETTLE_SECONDS, every=0.3)
        self.wait()

    def wait(self) -> None:
        """Return once etcd answers, a controller leads, and every agent has a heartbeat and a Docker Engine."""
        until("a controller leads", self._led, seconds=_SETTLE_SECONDS, every=0.2)
        until("every agent is at work", self._agents_at_work, seconds=_SETTLE_SECONDS, every=0.3)

    def mend(self) -> None:
        """Undo all cuts, pauses and kills; return once everything is ready."""
        for machine in self.machines.values():
            machine.join()
            for program in machine.programs:
                if program.running:
                    program.resume()
            machine.start()
        self.wait()

    def leader(self) -> str:
        """Return the name of the controller that leads; empty if none does."""

        async def work(etcd: Etcd) -> str:
            listing = await etcd.list(etcd.keys.election_prefix)
            first = min(listing.items, key=lambda item: item.create_revision, default=None)
            return decode(Candidate, first.key, first.value).identity if first else ""

        return self.store(work)

    def etcd_leader(self) -> str:
        """Return the name of the member of etcd that leads; empty if none does."""
        for name, member in self.etcd.items():
            if not member.etcd.running:
                continue
            done = self.etcdctl("endpoint", "status", "-w", "json", endpoints=f"{member.address}:2379", check=False)
            with suppress(ValueError, LookupError):
                status = json.loads(done.stdout)[0]["Status"]
                if status["leader"] == status["header"]["member_id"]:
                    return name
        return ""

    # --- the operator's place

    @property
    def environ(self) -> dict[str, str]:
        """Variables of the commands of root, the operator."""
        theirs = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
        return {**environ(), **theirs, "DEVOPSELLENCE_HOME": str(self.folder / "home"), **self.variables}

    def devopsellence(
        self, *arguments: str, check: bool = True, cwd: Path | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run the real command line."""
        return run(self.command(*arguments), environ=self.environ, check=check, cwd=cwd, timeout=timeout)

    def command(self, *arguments: str) -> list[str]:
        """Return the words of a command of the real command line."""
        return [sys.executable, "-m", "devopsellence.cli", *arguments]

    def json(self, *arguments: str, check: bool = True, cwd: Path | None = None) -> dict[str, Any]:
        """Run a command with ``-o json``; return the last document."""
        done = self.devopsellence(*arguments, "-o", "json", check=check, cwd=cwd)
        document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return document

    def etcdctl(self, *arguments: str, endpoints: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run etcdctl as root."""
        variables = {**self.environ, **self.etcdctl_variables}
        if endpoints:
            variables["ETCDCTL_ENDPOINTS"] = endpoints
        return run(["etcdctl", *arguments], environ=variables, check=check, timeout=30)

    @property
    def _etcd_endpoints(self) -> str:
        return ",".join(f"{member.address}:2379" for member in self.etcd.values())

    @property
    def etcdctl_variables(self) -> dict[str, str]:
        return {
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": self._etcd_endpoints,
            "ETCDCTL_CACERT": self.variables["DEVOPSELLENCE_ETCD_CA_CERT"],
            "ETCDCTL_CERT": self.variables["DEVOPSELLENCE_ETCD_CERT"],
            "ETCDCTL_KEY": self.variables["DEVOPSELLENCE_ETCD_KEY"],
        }

    def store(self, work: Callable[[Etcd], Awaitable[T]]) -> T:
        """Return the result of ``work`` on a connection to etcd itself as root."""
        settings = Settings.from_environ({**self.variables, "DEVOPSELLENCE_ETCD_ENDPOINTS": self._etcd_endpoints})
        assert settings is not None

        async def connected() -> T:
            async with Etcd(settings) as etcd:
                return await work(etcd)

        return asyncio.run(connected())

    # --- how it comes up

    def _start_engine(self, host: Host) -> None:
        if not host.engine.running:
            host.engine.start()
        host.wait_engine()
        host.load_image(envoy_archive())

    def _start_etcd(self) -> None:
        """Create certificates and start the members."""
        members = [f"--etcd={name}={member.address}" for name, member in self.etcd.items()]
        controllers = [f"--controller={controller.address}" for controller in self.controllers.values()]
        self.take(self.json("cluster", "init", "--no-passphrase", *members, *controllers)["variables"])
        for name in self.etcd:
            self._install_member(name)
            self.etcd[name].start()
        until("etcd answers", self._etcd_answers, every=0.1)

    def _install_member(self, name: str) -> None:
        self.etcd[name].install(self.folder / "home" / "cluster" / f"etcd-{name}")

    def _etcd_answers(self) -> bool:
        running = [name for name, member in self.etcd.items() if member.etcd.running]
        assert len(running) == len(self.etcd), f"etcd has ended: see {self.logs}"
        return self.etcdctl("endpoint", "health", check=False).returncode == 0

    def _led(self) -> str:
        for controller in self.controllers.values():
            assert controller.controller.running, (
                f"the controller has ended: {controller.log('controller').read_text()[-1000:]}"
            )
        return self.leader()

    def start_controllers(self) -> None:
        """Start all controllers with the bundle of ``cluster init``; return once a gateway answers."""
        for controller in self.controllers.values():
            controller.install(self._controllers)
            controller.start()
        until("a gateway answers", lambda: self.devopsellence("node", "list", check=False).returncode == 0, every=0.1)

    @property
    def _controllers(self) -> Path:
        """Folder with the controllers' bundle."""
        return self.folder / "home" / "cluster" / "controller"

    def _agents_at_work(self) -> bool:
        async def work(etcd: Etcd) -> set[str]:
            listing = await etcd.list(etcd.keys.heartbeats_prefix)
            beats = (decode(Heartbeat, item.key, item.value) for item in listing.items)
            return {beat.node for beat in beats if beat.docker_version and not beat.problem}

        return self.store(work) >= self.hosts.keys()

    def _name_machines(self) -> None:
        """Name every machine by the letter of the role and a number; the address follows from both."""
        self.etcd = self._named(Member, "e", self.size.members)
        self.controllers = self._named(ControllerMachine, "c", self.size.controllers)
        self.hosts = self._named(Host, "n", self.size.hosts)

    def _named(self, kind: type[M], letter: str, count: int) -> dict[str, M]:
        machines = {}
        for number in range(count):
            name = f"{letter}{number + 1}"
            host_address = address(self.number, _FIRST_ADDRESS[letter] + number)
            machines[name] = kind(name, host_address, self._place(name), self.logs, self.switch)
        return machines

    def _place(self, name: str) -> Path:
        return self.folder / "machines" / name

    @property
    def _cgroup(self) -> str:
        return f"devopsellence-bed{self.number}"

    def _remember(self) -> None:
        record = {"number": self.number, "size": vars(self.size), "variables": self.variables}
        write_atomic(self._record, json.dumps(record, indent=1).encode() + b"\n")

    def _watch_over(self) -> None:
        """Start a process that takes the bed down if this process ends without doing so."""
        command = [sys.executable, "-m", "tests.support.cluster", "--folder", str(self.folder), "guard"]
        self._guard = subprocess.Popen(
            command, env=environ(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )


def _all(pool: ThreadPoolExecutor, work: Callable[[T], object], on: Iterable[T]) -> None:
    """Run ``work`` on all items in parallel; raise the first failure once all are done."""
    futures = [pool.submit(work, item) for item in on]
    failures = [future.exception() for future in futures]
    for failure in failures:
        if failure is not None:
            raise failure


def _remove_cgroups(name: str) -> None:
    """Remove the empty control groups of containers whose engine was killed with the machine."""
    for top in _CGROUPS.glob(f"*/{name}"):
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
