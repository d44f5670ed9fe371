"""Direct image upload to a node, against ``docker save | docker load`` into the same engine.

The node is a local cluster in a network namespace with a separate Docker Engine; the machine's engine builds.
``python -m bench.images`` measures; ``--send`` is the part inside the namespace.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench import report
from bench.report import Figure
from bench.scenarios import IMAGE, docker, small_image
from devopsellence.api.v1.stored_pb2 import Node, Release
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.context import dev_settings
from devopsellence.cli.images.distribute import distribute
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.output import Output
from devopsellence.cli.store.reader import Reader
from devopsellence.store.etcd import Etcd
from tests.support.host import Host

LAYERS: Final = 4
LAYER_BYTES: Final = 50 << 20
CHANGED_BYTES: Final = 10 << 20


class _Bytes(Output):
    """Counter of sent bytes."""

    sent = 0

    def progress(self, operation: str, message: str, **data: Any) -> None:
        if data.get("stage") == "sent":
            self.sent += data["bytes"]


async def send(image: str) -> None:
    """Upload an image to the node, and print the duration and the number of sent bytes."""
    settings = dev_settings()
    if settings is None:
        sys.exit("bench: no local cluster here")
    release = Release(organization="bench", project="bench", environment="production")
    service = release.services.add(name="app", kind=Service.WORKER)
    service.image.pinned = image
    output = _Bytes(quiet=True)
    async with Etcd(settings) as etcd:
        nodes = list((await Reader(etcd).get_prefix(etcd.keys.nodes_prefix, Node)).values())
        started = time.monotonic()
        await distribute(etcd, settings, DockerCli(), release, nodes, output)
        seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "bytes": output.sent}))


class _Pair:
    """Build engine and node."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def ours(self, image: str) -> tuple[float, int]:
        """Return seconds and bytes of the direct upload."""
        # Docker CLI of the namespace, but with the machine's engine for builds.
        environ = {name: value for name, value in self._host.environ.items() if name != "DOCKER_HOST"}
        command = self._host.command(sys.executable, "-m", "bench.images", "--send", image)
        done = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
        told = json.loads(done.stdout.splitlines()[-1])
        return float(told["seconds"]), int(told["bytes"])

    def theirs(self, image: str) -> float:
        """Return the seconds of ``docker save | docker load``."""
        started = time.monotonic()
        self._host.load_image(image)
        return time.monotonic() - started

    def clear(self, image: str) -> None:
        """Remove all traces of the image from the node."""
        self._host.docker("rmi", "-f", image)


@contextmanager
def _built(*layers: int | bytes) -> Iterator[str]:
    """Build an image with the given layers (random content for a length); remove the image at the end."""
    small_image()
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"FROM {IMAGE}"]
        for number, content in enumerate(layers):
            (Path(folder) / str(number)).write_bytes(os.urandom(content) if isinstance(content, int) else content)
            lines.append(f"COPY {number} /{number}")
        (Path(folder) / "Dockerfile").write_text("\n".join(lines) + "\n")
        command = ["docker", "build", "-q", "--iidfile", f"{folder}/id", folder]
        subprocess.run(command, env={**os.environ, "DOCKER_BUILDKIT": "0"}, check=True, capture_output=True)
        image = (Path(folder) / "id").read_text().strip()
    try:
        yield image
    finally:
        docker("rmi", "-f", image)


def whole_image(pair: _Pair, runs: int) -> Figure:
    """Measure the upload of an image unknown to the node."""
    ours, theirs = [], []
    with _built(*[LAYER_BYTES] * LAYERS) as image:
        for _ in range(runs):
            theirs.append(pair.theirs(image))
            pair.clear(image)
            ours.append(pair.ours(image)[0])
            pair.clear(image)
    name = f"image of {LAYERS * LAYER_BYTES >> 20} MiB to a node"
    return Figure(name, "s", ours, "docker save | docker load", theirs, limit=2.0)


def changed_layer(pair: _Pair, runs: int) -> list[Figure]:
    """Measure the upload of an image with a single new layer."""
    seconds, sent, peer = [], [], []
    kept = [os.urandom(LAYER_BYTES) for _ in range(LAYERS - 1)]
    with _built(*kept, CHANGED_BYTES) as first:
        pair.ours(first)
        for _ in range(runs):
            with _built(*kept, CHANGED_BYTES) as image:
                took, count = pair.ours(image)
                pair.clear(image)
                seconds.append(took)
                sent.append(float(count))
                peer.append(pair.theirs(image))
                pair.clear(image)
    what = f"one layer of {CHANGED_BYTES >> 20} MiB changed"
    return [
        Figure(f"{what}: bytes sent", "bytes", sent, "the layer", [float(CHANGED_BYTES)] * runs, limit=1.05),
        Figure(f"{what}: image to a node", "s", seconds, "docker save | docker load", peer, limit=1.0),
    ]


def all_figures(runs: int) -> list[Figure]:
    """Measure all figures; needs root, see ``tests.support.host``."""
    with tempfile.TemporaryDirectory(prefix="dvo-bench-") as folder, Host(Path(folder)) as host:
        host.devopsellence("dev", "up")
        pair = _Pair(host)
        return [whole_image(pair, runs), *changed_layer(pair, runs)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.images", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs of each figure (default: 3)")
    parser.add_argument("--send", metavar="IMAGE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send:
        asyncio.run(send(arguments.send))
    else:
        report.print_table(all_figures(arguments.runs))


if __name__ == "__main__":
    main()
