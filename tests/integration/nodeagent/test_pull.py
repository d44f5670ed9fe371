"""Pulling by digest, from a registry of the test's own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.agent import AgentNode, ServiceStatus, reports, service_of, worker
from tests.support.docker import docker

pytestmark = pytest.mark.docker

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """Read-only registry with a single image (HTTP API version 2); the engine accepts plain HTTP on 127.0.0.1.

    While ``there`` is not set, every answer is 404. ``login``: required ``user:password``; ``logins``: Authorization
    headers received.
    """

    def __init__(self, login: str = "") -> None:
        self.there = threading.Event()
        self.logins: list[str] = []
        expected = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""
        layer = _layer()
        packed = gzip.compress(layer)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _descriptor("application/vnd.docker.container.image.v1+json", config),
                "layers": [_descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", packed)],
            }
        ).encode()
        self.blobs = {digest(blob): blob for blob in (packed, config, manifest)}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sent = self.headers.get("Authorization", "")
                registry.logins += [sent] if sent else []
                if sent != expected:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="test"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                content = b"{}" if self.path == "/v2/" else registry.blobs.get(self.path.rpartition("/")[2])
                if content is None or not registry.there.is_set():
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", MANIFEST if "/manifests/" in self.path else "application/octet-stream")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Docker-Content-Digest", digest(content))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815 - the name that the server looks for

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.repository = f"127.0.0.1:{self.server.server_port}/test/small"
        self.pinned = f"{self.repository}@{digest(manifest)}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry()
    yield registry
    registry.server.shutdown()
    registry.server.server_close()
    docker("rmi", "-f", registry.pinned, check=False)


async def test_registry_image_is_pulled_by_digest(node: AgentNode, registry: Registry) -> None:
    registry.there.set()
    node.start()
    await node.assign(worker("a", image=registry.pinned))
    service_status = service_of(await node.settled(), "a")
    assert service_status.restarts == 0
    assert node.inspect(service_status.container)["Config"]["Image"] == registry.pinned
    assert node.lines("action")[1]["action"] in ("create", "pull")
    assert any(line["action"] == "pull" for line in node.lines("action"))


async def test_missing_registry_image_is_reported_and_old_container_serves(node: AgentNode, registry: Registry) -> None:
    node.start()
    await node.assign(worker("a"))
    before = service_of(await node.settled(), "a").container
    await node.assign(worker("a", image=registry.pinned), release=2)
    status = await node.until("backs off", reports("a", phase=ServiceStatus.BACKOFF))
    service_status = service_of(status, "a")
    assert registry.repository in service_status.reason
    assert (service_status.container, service_status.failed) == (before, False)
    # Brought by other means, it is used at once, long before the next attempt.
    registry.there.set()
    docker("pull", "-q", registry.pinned)
    await node.settled(seconds=5)


def _layer() -> bytes:
    """Return a new layer, unknown to the engine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (
            ("bin/busybox", Path("/bin/busybox").read_bytes()),
            ("made", uuid4().hex.encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        for applet in ("sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return buffer.getvalue()


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "size": len(content), "digest": digest(content)}
