"""``dev status``: processes of the local cluster, their health, and the text for a terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from devopsellence.cli import signals
from devopsellence.cli.dev import cluster, state, supervisor_control
from devopsellence.cli.dev.docker_api import DockerHttpApi, DockerHttpError
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.readiness import heartbeat, leader, problem_of
from devopsellence.cli.dev.spec import BACKOFF, RUNNING, ProcessReport, SupervisorSnapshot
from devopsellence.cli.dev.state import CONTROLLER, DevState
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import age, columns
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd

_CALL_SECONDS: Final = 2.0
SUPERVISOR: Final = "supervisor"
HEADER: Final = ("PROCESS", "PID", "UP", "RESTARTS", "HEALTH")


@dataclass(frozen=True)
class ProcessStatus:
    """Process of the local cluster; ``problem`` is "" for a healthy process."""

    report: ProcessReport
    problem: str
    log: str

    def document(self) -> dict[str, Any]:
        report = self.report
        return {
            "name": report.name,
            "phase": report.phase,
            "pid": report.pid or None,
            "since": _stamp(report.since),
            "restarts": report.restarts,
            "healthy": not self.problem,
            "problem": self.problem,
            "next_attempt_at": _stamp(report.next_attempt_at),
            "last_end": report.last_end,
            "last_end_at": _stamp(report.last_end_at),
            "last_lines": list(report.last_lines),
            "log": self.log,
        }


@dataclass(frozen=True)
class DevStatus:
    """Status of the local cluster; ``docker_problem`` is "" for a reachable Docker Engine."""

    layout: DevLayout
    state: DevState
    running: bool
    parts: tuple[ProcessStatus, ...]
    docker_version: str
    docker_problem: str

    @property
    def healthy(self) -> bool:
        return not self.docker_problem and not any(part.problem for part in self.parts)

    @property
    def gateway_endpoint(self) -> str:
        """Address of the controller's gateway; "" for a cluster started by a version without one."""
        return f"127.0.0.1:{self.state.gateway_port}" if self.state.gateway_port else ""

    @property
    def agent_endpoint(self) -> str:
        """Address of the agent's API; "" for a cluster started by a version without the API."""
        return f"127.0.0.1:{self.state.agent_port}" if self.state.agent_port else ""

    @property
    def ingress_urls(self) -> tuple[str, ...]:
        """URLs of the ingress; empty for a cluster started by a version without ingress."""
        ports = (("http", self.state.http_port), ("https", self.state.https_port))
        return tuple(f"{scheme}://127.0.0.1:{port}" for scheme, port in ports if port)

    def document(self) -> dict[str, Any]:
        return {
            "running": self.running,
            "healthy": self.healthy,
            "node": {"name": self.state.node_name, "uid": self.state.node_uid},
            "etcd": {
                "endpoint": f"127.0.0.1:{self.state.client_port}",
                "client_port": self.state.client_port,
                "peer_port": self.state.peer_port,
            },
            "gateway": {"endpoint": self.gateway_endpoint, "port": self.state.gateway_port},
            "agent": {"endpoint": self.agent_endpoint, "port": self.state.agent_port},
            "ingress": {"http_port": self.state.http_port, "https_port": self.state.https_port},
            "docker": {
                "host": self.state.docker_host,
                "version": self.docker_version,
                "problem": self.docker_problem,
            },
            "folder": str(self.layout.root),
            "logs": str(self.layout.logs),
            "processes": [part.document() for part in self.parts],
        }


def read_status() -> DevStatus | None:
    """Return the current status; None without a local cluster."""
    layout = state.layout()
    saved = state.load(layout)
    if saved is None:
        return None
    snapshot = supervisor_control.running(layout)
    problems = _problems(layout, saved, snapshot) if snapshot else {}
    version, docker_problem = _docker(saved)
    parts = [_supervisor(layout, snapshot)]
    for name in cluster.PROCESSES:
        report = snapshot.process(name) if snapshot else ProcessReport(name, "stopped")
        problem = _not_running(report) or problems.get(name, "")
        parts.append(ProcessStatus(report, problem, str(layout.log(name))))
    return DevStatus(layout, saved, snapshot is not None, tuple(parts), version, docker_problem)


def _supervisor(layout: DevLayout, snapshot: SupervisorSnapshot | None) -> ProcessStatus:
    log = str(layout.log(SUPERVISOR))
    if snapshot is None:
        return ProcessStatus(ProcessReport(SUPERVISOR, "stopped"), "not running", log)
    who = snapshot.supervisor
    return ProcessStatus(
        ProcessReport(SUPERVISOR, RUNNING, pid=who.pid, started=who.started, since=snapshot.since), "", log
    )


def _not_running(report: ProcessReport) -> str:
    if report.phase == BACKOFF:
        seconds = max(0, round(report.next_attempt_at - time.time()))
        return f"{report.last_end}; next start in {seconds} s"
    return "" if report.alive else "not running"


def _problems(layout: DevLayout, saved: DevState, snapshot: SupervisorSnapshot) -> dict[str, str]:
    """Return the problem of each running process by name, from records in etcd."""
    if not snapshot.process(cluster.ETCD).alive:
        return dict.fromkeys((CONTROLLER, cluster.AGENT), "cannot reach etcd")
    return signals.run(_ask(layout, saved, snapshot))


async def _ask(layout: DevLayout, saved: DevState, snapshot: SupervisorSnapshot) -> dict[str, str]:
    try:
        async with Etcd(state.settings_of(layout, saved, CONTROLLER), timeout=_CALL_SECONDS) as etcd:
            member = await etcd.member()
            candidate = leader(await etcd.list(etcd.keys.election_prefix))
            beat = heartbeat(etcd, await etcd.list(etcd.keys.heartbeats_prefix), saved.node_name)
    except StoreError as error:
        return {cluster.ETCD: f"does not answer: {error}"}
    problems = {}
    if member.alarms:
        problems[cluster.ETCD] = f"alarm {', '.join(member.alarms)}: run devopsellence doctor"
    if candidate is None or candidate.identity.rpartition("/")[2] != str(snapshot.process(CONTROLLER).pid):
        problems[CONTROLLER] = f"not the leader ({candidate.identity} is)" if candidate else "not the leader yet"
    if beat is None:
        problems[cluster.AGENT] = "no heartbeat in etcd"
    elif beat.uid != saved.node_uid:
        problems[cluster.AGENT] = f"the agent of another machine uses the name {saved.node_name}"
    elif problem := problem_of(beat):
        problems[cluster.AGENT] = problem
    return problems


def _docker(saved: DevState) -> tuple[str, str]:
    """Return the version of the Docker Engine, and its problem; one of them is ""."""
    try:
        return DockerHttpApi(saved.docker_host).version(), ""
    except DockerHttpError as error:
        return "", str(error)


def _stamp(seconds: float) -> str | None:
    """Return a time for JSON (RFC 3339); None for 0."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds else None


def status_text(status: DevStatus) -> str:
    """Return a table of the processes, the last log lines of failing processes, and the addresses."""
    now = time.time()
    lines = [columns(HEADER, [cells(part, now) for part in status.parts])]
    for part in status.parts:
        lines += ending_lines(part)
    return "\n".join([*lines, "", *places(status)])


def cells(part: ProcessStatus, now: float) -> list[str]:
    """Return the table cells of a process, in the order of :data:`HEADER`."""
    report = part.report
    return [
        report.name,
        str(report.pid or "-"),
        age(now - report.since) if report.since else "-",
        str(report.restarts),
        safe(part.problem) or "healthy",
    ]


def ending_lines(part: ProcessStatus) -> list[str]:
    """Return the last log lines of a process with a problem before its last exit; nothing without an exit."""
    report = part.report
    if not part.problem or not report.last_end:
        return []
    last = [f"    {safe(line)}" for line in report.last_lines]
    return ["", f"{report.name} {report.last_end}{'; its last lines:' if last else ''}", *last]


def places(status: DevStatus) -> list[str]:
    state = status.state
    docker = safe(status.docker_problem or status.docker_version)
    lines = [
        f"Node    {state.node_name}",
        f"etcd    127.0.0.1:{state.client_port} (peers {state.peer_port})",
        f"Gateway {status.gateway_endpoint or '-'}",
        f"Agent   {status.agent_endpoint or '-'}",
        f"Apps    {', '.join(status.ingress_urls) or '-'}",
        f"Docker  {state.docker_host} ({docker})",
        f"Folder  {status.layout.root}",
        f"Logs    {status.layout.logs}",
    ]
    if not status.healthy:
        lines += ["", "Start stopped processes: devopsellence dev up"]
    return lines
