"""``exec`` and ``logs`` through the agent, as whole processes: duration and memory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench.cluster import ENVIRONMENT, Cluster, deploy, worker
from bench.report import Figure
from bench.scenarios import SLEEP, docker, whole_process
from devopsellence.store.etcd import Etcd

LINES = 200_000
# Limits of `exec` and `logs`: seconds for a first `exec -- true`, and for 10,000 lines; MiB on either side.
EXEC_SECONDS = 0.5
SECONDS_FOR_10_000 = 1.0
MEMORY_MIB = 64.0
_PRINT = ["/bin/sh", "-c", f"/bin/busybox seq 1 {LINES}; exec /bin/sleep 100000"]
_WHERE = ("--env", str(ENVIRONMENT))


async def remote_figures(running: Cluster, etcd: Etcd, image: str, runs: int) -> list[Figure]:
    """Measure ``exec`` and ``logs`` against ``docker exec`` and ``docker logs`` on the same containers."""
    await deploy(etcd, [worker("sleeper", image, SLEEP), worker("printer", image, _PRINT)])
    return [*_exec(running, runs), *_logs(running, runs)]


def _container(running: Cluster, service: str) -> str:
    labels = (f"devopsellence.node_uid={running.node_uid()}", f"devopsellence.service={service}")
    return docker("ps", "-q", *(part for label in labels for part in ("--filter", f"label={label}")))


def _exec(running: Cluster, runs: int) -> list[Figure]:
    ours = running.command("exec", "sleeper", *_WHERE, "--", "/bin/busybox", "true")
    theirs = ["docker", "exec", _container(running, "sleeper"), "/bin/busybox", "true"]
    took, peer = [], []
    for _ in range(max(runs, 5)):
        took += whole_process(ours, running.environ, 1, running.home)
        peer += whole_process(theirs, dict(os.environ), 1, running.home)
    return [
        Figure("devopsellence exec -- true", "s", took, limit=EXEC_SECONDS),
        Figure("devopsellence exec, as a ratio", "s", took, "docker exec", peer),
    ]


def _logs(running: Cluster, runs: int) -> list[Figure]:
    agent = Path(f"/proc/{running.pid_of('agent')}")
    ours = running.command("logs", "printer", *_WHERE, "--follow", "--lines", "all")
    theirs = ["docker", "logs", "--follow", "--tail", "all", _container(running, "printer")]
    took, peer, held, grown = [], [], [], []
    for _ in range(runs):
        peer.append(_read(theirs, dict(os.environ))[0])
        before = _reset_peak(agent)
        seconds, mib = _read(ours, running.environ)
        took.append(seconds)
        held.append(mib)
        grown.append(_peak(agent) - before)
    share = 10_000 / LINES
    return [
        Figure("logs --follow, for 10,000 lines", "s", [each * share for each in took], limit=SECONDS_FOR_10_000),
        Figure(f"logs --follow, {LINES:,} lines", "s", took, "docker logs --follow", peer),
        Figure("logs --follow: the command's memory at its peak", "MiB", held, limit=MEMORY_MIB),
        Figure("logs --follow: what the agent's grows by", "MiB", grown, limit=MEMORY_MIB),
    ]


def _read(command: Sequence[str], environ: dict[str, str]) -> tuple[float, float]:
    """Return the seconds until ``command`` has printed all lines, and the peak memory in MiB."""
    started = time.monotonic()
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    stream = process.stdout
    if stream is None:
        raise RuntimeError("a pipe was asked for")
    lines = 0
    try:
        while lines < LINES and (chunk := os.read(stream.fileno(), 1 << 20)):
            lines += chunk.count(b"\n")
        seconds, peak = time.monotonic() - started, _peak(Path(f"/proc/{process.pid}"))
    finally:
        # Not SIGINT: a shell starts programs in the background with SIGINT ignored, and their children inherit that.
        process.send_signal(signal.SIGTERM)
        stream.close()
        process.wait()
    if lines < LINES:
        raise RuntimeError(f"{' '.join(command)} ended after {lines} lines")
    return seconds, peak


def _reset_peak(process: Path) -> float:
    """Reset the peak memory of a process (proc(5), clear_refs); return the current memory in MiB."""
    (process / "clear_refs").write_text("5")
    return _field(process, "VmRSS")


def _peak(process: Path) -> float:
    """Return the peak memory in MiB. Not the one of wait4(2), which begins with that of the process that forked."""
    return _field(process, "VmHWM")


def _field(process: Path, name: str) -> float:
    lines = (process / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024
