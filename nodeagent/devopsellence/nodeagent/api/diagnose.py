"""Diagnosis of a node: measurements of this machine, and checks with a verdict and a fix."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devopsellence.agent_identity import server_name
from devopsellence.api.v1.agent_pb2 import Check, DiagnoseAnswer
from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.nodeagent.access import AccessState
from devopsellence.nodeagent.api import isolation
from devopsellence.nodeagent.api.isolation import Isolation
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.docker import errors, streams
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.server_certificate import CertificateFiles, CertificateProblem, certificate_expiry

#: Below any of these limits the engine soon fails with obscure errors.
MIN_FREE_SHARE: Final = 0.10
MIN_FREE_MIB: Final = 1024
MIN_MEMORY_SHARE: Final = 0.05
MIN_DAYS: Final = 14
_MIB: Final = 1024 * 1024
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """Total and free amount, in MiB."""

    total: int
    free: int


@dataclass(frozen=True)
class Diagnosis:
    """Diagnosis of this node. ``beat``: the agent's heartbeat. ``files``: the agent's certificate."""

    beat: Heartbeat
    engine: DockerEngine
    access: Callable[[], AccessState]
    assignments: Assignments
    files: CertificateFiles
    state_dir: Path
    threads: ThreadPool

    async def answer(self, visible: Callable[[Iterable[str]], Collection[str]]) -> DiagnoseAnswer:
        """Measure and check everything. Raises nothing: a failed measurement becomes a failed check.

        ``visible`` returns those of some environments that the caller may view; others are not named.
        """
        root = await self._data_root()
        disk = await self.threads.run(lambda: _disk(root, self.state_dir))
        memory = await self.threads.run(memory_capacity)
        beat, problems = self.beat, self._problems()
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
                check_etcd(self.assignments.problem),
                check_access(self.access()),
                check_disk(disk),
                check_memory(memory),
                await self.threads.run(self._certificate),
                check_assignments(problems, visible(problems)),
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
            return Isolation("unknown: the Docker Engine does not answer")
        return await self.threads.run(lambda: isolation.measure(bridges))

    def _certificate(self) -> Check:
        def measure() -> float:
            return certificate_expiry(self.files, server_name(self.beat.uid)) - time.time()

        return check_certificate(measure)

    def _problems(self) -> dict[str, str]:
        entries = ((ref, self.assignments.get(ref)) for ref in sorted(self.assignments.environments, key=str))
        return {
            str(ref): entry.problem or f"the assignment is for the machine with uid {entry.foreign_uid}"
            for ref, entry in entries
            if entry.problem or entry.foreign_uid
        }


def check_docker(problem: str) -> Check:
    """Check the connection to the engine. ``problem``: reason for a missing connection."""
    fix = "start Docker (systemctl start docker) and check its log (journalctl -u docker)"
    return _check("docker", problem, "the Docker Engine answers", fix)


def check_etcd(problem: str) -> Check:
    """Check the connection to etcd. ``problem``: reason why assignments cannot be read."""
    fix = "run devopsellence doctor; services keep running meanwhile"
    return _check("etcd", problem, "assignments are up to date", fix)


def check_access(access: AccessState) -> Check:
    """Check the addresses of the gateways: usable, and confirmed by a connection not long ago."""
    return _check("access", access.problem, access.summary, access.fix)


def check_disk(capacity: Capacity) -> Check:
    """Check the free disk space: at least a tenth and 1 GiB."""
    low = capacity.free < MIN_FREE_MIB or capacity.free < capacity.total * MIN_FREE_SHARE
    summary = f"{capacity.free} of {capacity.total} MiB are free in Docker's data root"
    fix = "free disk space (docker system df shows the usage), or enlarge the disk"
    return _check("disk", summary if low else "", summary, fix)


def check_memory(capacity: Capacity) -> Check:
    """Check the available memory: at least a twentieth."""
    low = capacity.free < capacity.total * MIN_MEMORY_SHARE
    summary = f"{capacity.free} of {capacity.total} MiB are available"
    return _check(
        "memory",
        summary if low else "",
        summary,
        "limit the memory of services (resources), or move services to another node",
    )


def check_certificate(left: Callable[[], float]) -> Check:
    """Check the expiry of the certificate. ``left`` returns the remaining seconds, or raises CertificateProblem."""
    fix = "see in the agent's log why it was not renewed, or join again (devopsellence node register prints a token)"
    try:
        days = int(left() // _DAY)
    except CertificateProblem as problem:
        return _check("certificate", str(problem), "", fix)
    summary = f"valid for {days} more days"
    return _check("certificate", summary if days < MIN_DAYS else "", summary, fix)


def check_assignments(problems: Mapping[str, str], visible: Collection[str]) -> Check:
    """Check the assignments. ``problems``: a clause per environment with an invalid assignment.

    Environments that are not ``visible`` to the caller are counted, so that nobody takes the node for healthy.
    """
    sentences = [f"{path}: {problem}" for path, problem in problems.items() if path in visible]
    if hidden := len(problems) - len(sentences):
        sentences.append(f"{hidden} in environments that you may not view")
    fix = "deploy again; if the machine of this node was replaced, start the agent with the new uid"
    return _check("assignments", "; ".join(sentences), "all assignments are valid", fix)


def check_isolation(result: Isolation) -> Check:
    """Check the packet filter. An unknown result is not a problem: not every agent may read the packet filter."""
    return _check("isolation", result.problem, result.summary, result.fix)


def memory_capacity() -> Capacity:
    """Return the machine's memory, from the kernel."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    total, available = (int(fields[name].split()[0]) // 1024 for name in ("MemTotal", "MemAvailable"))
    return Capacity(total, available)


def process_memory() -> int:
    """Return the resident memory of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // _MIB


def _disk(root: str, fallback: Path) -> Capacity:
    """Return the disk capacity of the engine's data root if visible on this machine, else of the agent's state
    folder."""
    try:
        stats = os.statvfs(root or fallback)
    except OSError:
        stats = os.statvfs(fallback)
    return Capacity(stats.f_blocks * stats.f_frsize // _MIB, stats.f_bavail * stats.f_frsize // _MIB)


def _check(name: str, problem: str, ok_message: str, fix: str) -> Check:
    return Check(name=name, ok=not problem, message=problem or ok_message, mend=fix if problem else "")
