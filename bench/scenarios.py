"""Scenarios of the benchmark. Peers run in turn with each measurement, so that drift affects both alike."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from bench.cluster import Cluster, deploy, web, worker
from bench.report import Figure
from devopsellence.store.etcd import Etcd

FOUR_AT_A_TIME = 4
REST_SECONDS = 20.0
IMAGE = "devopsellence/bench:small"


def docker(*args: str, stdin: bytes | None = None) -> str:
    return subprocess.run(["docker", *args], check=True, input=stdin, stdout=subprocess.PIPE).stdout.decode().strip()


def small_image() -> str:
    """Return the id of a 2 MB image with busybox, built if missing."""
    present = subprocess.run(
        ["docker", "image", "inspect", "-f", "{{.Id}}", IMAGE],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    if present.returncode == 0:
        return present.stdout.decode().strip()
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        sys.exit("bench: /bin/busybox is missing; run make setup")
    links = ["sh", "sleep", "httpd"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "bin").mkdir()
        (root / "www").mkdir()
        (root / "www" / "index.html").write_text("ok\n")
        (root / "bin" / "busybox").write_bytes(busybox.read_bytes())
        (root / "bin" / "busybox").chmod(0o755)
        for link in links:
            (root / "bin" / link).symlink_to("busybox")
        archive = subprocess.run(["tar", "-C", str(root), "-c", "."], check=True, stdout=subprocess.PIPE).stdout
    return docker("import", "-", IMAGE, stdin=archive)


SLEEP = ["/bin/sleep", "100000"]
HTTPD = ["/bin/httpd", "-f", "-p", "3000", "-h", "/www"]


@contextlib.contextmanager
def docker_network() -> Iterator[str]:
    name = f"bench-{time.monotonic_ns()}"
    docker("network", "create", name)
    try:
        yield name
    finally:
        docker("network", "rm", name)


def docker_run(image: str, count: int) -> float:
    """Return the seconds of ``docker run -d`` for ``count`` containers, four at a time, on a separate network."""
    started = time.monotonic()
    with docker_network() as network:
        run = ["run", "-d", "--network", network, image, *SLEEP]
        with ThreadPoolExecutor(FOUR_AT_A_TIME) as pool:
            containers = list(pool.map(lambda _: docker(*run), range(count)))
        seconds = time.monotonic() - started
        docker("rm", "-f", *containers)
    return seconds


async def many_services(etcd: Etcd, image: str, count: int, runs: int) -> Figure:
    """Measure the time from release to settled for ``count`` services, against ``docker run -d``."""
    ours, theirs = [], []
    for _ in range(runs):
        theirs.append(await asyncio.to_thread(docker_run, image, count))
        ours.append(await deploy(etcd, [worker(f"s{number}", image, SLEEP) for number in range(count)]))
        await deploy(etcd, [worker("last", image, SLEEP)])
    return Figure(f"{count} services, written to settled", "s", ours, "docker run -d, 4 at a time", theirs, limit=1.5)


def answers(address: str, port: int = 3000) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=0.2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def address_of(container: str) -> str:
    return docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)


def serving_again(container: Callable[[], str], kill: Callable[[str], object]) -> float:
    """Return the seconds from before ``kill`` until the service answers over HTTP again."""
    killed = container()
    started = time.monotonic()
    kill(killed)
    while time.monotonic() - started < 30:
        with contextlib.suppress(subprocess.CalledProcessError, IndexError):
            if answers(address_of(container())):
                return time.monotonic() - started
    raise TimeoutError("the killed container did not come back within 30 s")


async def killed_container(running: Cluster, etcd: Etcd, image: str, runs: int) -> list[Figure]:
    """Measure recovery from ``docker kill`` and ``docker rm -f`` of a web container, against recovery by hand."""
    await deploy(etcd, [web("web", image, HTTPD, 3000)])
    uid = running.node_uid()

    def managed() -> str:
        found = docker(
            "ps", "-q", "--filter", f"label=devopsellence.node_uid={uid}", "--filter", "label=devopsellence.service=web"
        )
        return found.split()[0]

    hand = {"container": docker("run", "-d", image, *HTTPD)}

    def kill_and_start(container: str) -> None:
        docker("kill", container)
        docker("start", container)

    def remove_and_run(container: str) -> None:
        docker("rm", "-f", container)
        hand["container"] = docker("run", "-d", image, *HTTPD)

    killed, removed, hand_killed, hand_removed = [], [], [], []
    for _ in range(runs):
        hand_killed.append(await asyncio.to_thread(serving_again, lambda: hand["container"], kill_and_start))
        killed.append(await asyncio.to_thread(serving_again, managed, lambda it: docker("kill", it)))
        hand_removed.append(await asyncio.to_thread(serving_again, lambda: hand["container"], remove_and_run))
        removed.append(await asyncio.to_thread(serving_again, managed, lambda it: docker("rm", "-f", it)))
        # Repeated exits lead to backoff: only the first exit is measured.
        await deploy(etcd, [worker("last", image, SLEEP)])
        await deploy(etcd, [web("web", image, HTTPD, 3000)])
    docker("rm", "-f", hand["container"])
    return [
        Figure("killed container serving again", "s", killed, limit=1.0),
        Figure("killed container, as a ratio", "s", killed, "docker kill, docker start", hand_killed),
        Figure("removed container serving again", "s", removed, "docker rm -f, docker run", hand_removed),
    ]


async def unchanged_restarts(running: Cluster, etcd: Etcd, image: str) -> Figure:
    """Count restarts of nine unchanged services in a deploy that changes a tenth service."""
    services = [worker(f"s{number}", image, SLEEP) for number in range(10)]
    await deploy(etcd, services)
    uid = running.node_uid()

    def containers() -> set[str]:
        ids = docker("ps", "-q", "--filter", f"label=devopsellence.node_uid={uid}").split()
        return set(docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", *ids).splitlines())

    before = containers()
    services[0].env["CHANGED"] = "yes"
    await deploy(etcd, services)
    return Figure("unchanged services restarted by a deploy", "of 9", [float(9 - len(before & containers()))], limit=0)


def whole_process(command: list[str], environ: dict[str, str], runs: int, cwd: Path) -> list[float]:
    seconds = []
    for run in range(runs + 1):
        started = time.monotonic()
        subprocess.run(command, env=environ, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
        if run:  # the first run warms the caches
            seconds.append(time.monotonic() - started)
    return seconds


def command_line(running: Cluster, runs: int) -> list[Figure]:
    """Measure ``--help`` and ``status`` as whole processes, in a folder without a configuration."""
    return [
        Figure(name, "s", whole_process(running.command(*args), running.environ, runs, running.home), limit=limit)
        for name, args, limit in (
            ("devopsellence --help", ["--help"], 0.150),
            ("devopsellence status", ["status"], 0.400),
        )
    ]


async def at_rest(running: Cluster, etcd: Etcd, image: str) -> list[Figure]:
    """Measure the idle cost of the agent with ten containers: CPU, memory, writes to etcd."""
    await deploy(etcd, [worker(f"s{number}", image, SLEEP) for number in range(10)])
    await asyncio.sleep(5)  # the last statuses and events of the deploy
    figures = []
    processes = {name: psutil.Process(running.pid_of(name)) for name in ("agent", "controller")}
    used = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    before = (await etcd.list(etcd.keys.nodes_prefix)).revision
    started = time.monotonic()
    await asyncio.sleep(REST_SECONDS)
    seconds = time.monotonic() - started
    after = (await etcd.list(etcd.keys.nodes_prefix)).revision
    for name, process in processes.items():
        share = (sum(process.cpu_times()[:2]) - used[name]) / seconds * 100
        figures.append(Figure(f"{name}: processor at rest", "% of a core", [share], limit=1.0))
        resident = process.memory_info().rss / 2**20
        figures.append(Figure(f"{name}: memory at rest, 10 containers", "MiB", [resident], limit=64.0))
    figures.append(
        Figure(f"etcd revisions in {REST_SECONDS:.0f} s at rest", "revisions", [float(after - before)], limit=0)
    )
    return figures


async def all_figures(running: Cluster, etcd: Etcd, *, runs: int) -> list[Figure]:
    image = small_image()
    return [
        await many_services(etcd, image, 10, runs),
        await many_services(etcd, image, 30, runs),
        *await killed_container(running, etcd, image, runs),
        await unchanged_restarts(running, etcd, image),
        *await at_rest(running, etcd, image),
        *command_line(running, max(runs, 5)),
    ]
