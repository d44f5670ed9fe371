"""How this node is: what an operator asks when something on it does not work. Judging is apart from measuring."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devopsellence.agent_identity import server_name
from devopsellence.api.v1.agent_pb2 import Check, DiagnoseAnswer
from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.nodeagent.api import isolation
from devopsellence.nodeagent.api.isolation import Isolation
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.docker import errors, streams
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.tls import CertificateProblem, Files, expires
from devopsellence.nodeagent.util.threads import ThreadPool

#: Below either of these the engine soon fails in ways that are hard to understand.
LEAST_FREE_SHARE: Final = 0.10
LEAST_FREE_MIB: Final = 1024
LEAST_MEMORY_SHARE: Final = 0.05
LEAST_DAYS: Final = 14
_MIB: Final = 1024 * 1024
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """MiB of something."""

    total: int
    free: int


@dataclass(frozen=True)
class Diagnosis:
    """Finds out how the node is. ``beat`` is what the agent says of itself; ``files`` its certificate."""

    beat: Heartbeat
    engine: DockerEngine
    assignments: Assignments
    files: Files
    state_dir: Path
    threads: ThreadPool

    async def answer(self) -> DiagnoseAnswer:
        """Measure, and judge. Fails for nothing: what cannot be measured is a check that is not ok."""
        root = await self._data_root()
        disk = await self.threads.run(lambda: _disk(root, self.state_dir))
        memory = await self.threads.run(memory_capacity)
        beat = self.beat
        answer = DiagnoseAnswer(
            node=beat.node,
            node_uid=beat.uid,
            agent_version=beat.agent_version,
            hostname=beat.hostname,
            docker_version=self.engine.version,
            started_at=beat.started_at,
            disk_total_mib=disk.total,
            disk_free_mib=disk.free,
            memory_total_mib=memory.total,
            memory_available_mib=memory.free,
            agent_memory_mib=await self.threads.run(process_memory),
            checks=[
                check_docker("" if self.engine.connected else self.engine.problem),
                check_etcd(self.assignments.unread),
                check_disk(disk),
                check_memory(memory),
                await self.threads.run(self._certificate),
                check_assignments(self._problems()),
                check_isolation(await self._isolation()),
            ],
        )
        answer.now.GetCurrentTime()
        return answer

    async def _data_root(self) -> str:
        try:
            return await self.engine.ask(streams.data_root)
        except errors.EngineError:
            return ""

    async def _isolation(self) -> Isolation:
        try:
            bridges = await self.engine.ask(lambda docker: streams.bridges(docker, self.beat.uid))
        except errors.EngineError:
            return Isolation("not known: the engine does not answer")
        return await self.threads.run(lambda: isolation.measure(bridges))

    def _certificate(self) -> Check:
        def measure() -> float:
            return expires(self.files, server_name(self.beat.uid)) - time.time()

        return check_certificate(measure)

    def _problems(self) -> list[str]:
        seen = ((env, self.assignments.look(env)) for env in sorted(self.assignments.environments, key=str))
        return [
            f"{env}: {each.problem or f'it is for the machine with uid {each.foreign}, which this one is not'}"
            for env, each in seen
            if each.problem or each.foreign
        ]


def check_docker(problem: str) -> Check:
    """``problem``: the agent's own view of the engine."""
    mend = "start it (systemctl start docker) and look at its log (journalctl -u docker)"
    return _check("docker", problem, "the engine answers", mend)


def check_etcd(problem: str) -> Check:
    """``problem``: why assignments cannot be read."""
    mend = "run devopsellence doctor; what is assigned already goes on meanwhile"
    return _check("etcd", problem, "assignments are followed", mend)


def check_disk(room: Capacity) -> Check:
    """A tenth of it and one GiB must be free."""
    little = room.free < LEAST_FREE_MIB or room.free < room.total * LEAST_FREE_SHARE
    said = f"{room.free} of {room.total} MiB are free where the engine keeps its data"
    mend = "remove what is not needed (docker system df shows what takes the room), or give it a larger disk"
    return _check("disk", said if little else "", said, mend)


def check_memory(room: Capacity) -> Check:
    """A twentieth of it must be available."""
    little = room.free < room.total * LEAST_MEMORY_SHARE
    said = f"{room.free} of {room.total} MiB are available"
    return _check(
        "memory", said if little else "", said, "give services limits (resources), or move some to another node"
    )


def check_certificate(left: Callable[[], float]) -> Check:
    """``left`` measures the seconds until it expires, or raises CertificateProblem."""
    mend = "issue the node's certificate anew (devopsellence cluster issue node) and put it in its place"
    try:
        days = int(left() // _DAY)
    except CertificateProblem as problem:
        return _check("certificate", str(problem), "", mend)
    said = f"it is valid for {days} more days"
    return _check("certificate", said if days < LEAST_DAYS else "", said, mend)


def check_assignments(problems: Iterable[str]) -> Check:
    """``problems``: a sentence for each environment whose assignment cannot be followed."""
    mend = "deploy again; if a machine was replaced under this node's name, start the agent with the new uid"
    return _check("assignments", "; ".join(problems), "all of them are followed", mend)


def check_isolation(seen: Isolation) -> Check:
    """What cannot be found out is no problem: not every agent may look at the machine's packet filter."""
    return _check("isolation", seen.problem, seen.summary, seen.fix)


def memory_capacity() -> Capacity:
    """The machine's memory, from the kernel."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    total, available = (int(fields[name].split()[0]) // 1024 for name in ("MemTotal", "MemAvailable"))
    return Capacity(total, available)


def process_memory() -> int:
    """MiB that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // _MIB


def _disk(root: str, otherwise: Path) -> Capacity:
    """Of the engine's data if that is on this machine and visible, otherwise of the agent's own folder."""
    try:
        seen = os.statvfs(root or otherwise)
    except OSError:
        seen = os.statvfs(otherwise)
    return Capacity(seen.f_blocks * seen.f_frsize // _MIB, seen.f_bavail * seen.f_frsize // _MIB)


def _check(name: str, problem: str, fine: str, mend: str) -> Check:
    return Check(name=name, ok=not problem, message=problem or fine, mend=mend if problem else "")
