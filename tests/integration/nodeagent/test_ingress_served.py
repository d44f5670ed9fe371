"""Agent with Envoy: a cutover under requests, and a certificate."""

from __future__ import annotations

import asyncio
import http.client
import signal
import socket
import ssl
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2
from tests.integration.nodeagent.test_ingress import HOST, ingress
from tests.integration.nodeagent.test_ingress_parts import part, send
from tests.support.agent import SERVE, AgentNode, Status, service_of, web
from tests.support.docker import docker
from tests.support.envoy import envoy_image
from tests.support.host_certificates import encrypted_certificate
from tests.support.ports import free_ports
from tests.support.until import eventually

pytestmark = pytest.mark.docker

#: Answers /cgi-bin/slow when there is a file /w/go; that it has begun is seen by /w/begun.
SLOW = (
    "mkdir -p /w/cgi-bin; cd /w; printf '#!/bin/sh\\ntouch /w/begun; while [ ! -e /w/go ]; do sleep 0.1; done; "
    'printf "Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n$TEXT"\' > cgi-bin/slow; chmod +x cgi-bin/slow; '
) + SERVE


def get(port: int, path: str = "/up") -> tuple[int, str]:
    """Send a request for :data:`HOST`; return status and text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers={"Host": HOST})
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()
    finally:
        connection.close()


def serial_at(port: int) -> str:
    """Return the serial of the certificate served for :data:`HOST`; empty if there is none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as secure,
        ):
            found = secure.getpeercert(binary_form=True)
    except OSError:
        return ""
    from cryptography import x509

    return f"{x509.load_der_x509_certificate(found or b'').serial_number:x}"


def mapped(pid: int) -> str:
    """Return the files mapped into the memory of a process."""
    return Path(f"/proc/{pid}/maps").read_text()


async def test_cutover_under_requests_survives_killed_agent(node: AgentNode) -> None:
    envoy_image()
    http_port, https_port = free_ports(2)
    arguments = [
        *("--envoy-image", "built-in", "--ingress-peer-port", "0"),
        *("--ingress-http-port", str(http_port), "--ingress-https-port", str(https_port)),
    ]
    node.start(*arguments)
    await node.assign(web(text="one", script=SLOW), ingress=ingress())
    status = await node.until(
        "it is served", lambda seen: seen.ingress.phase == stored_pb2.IngressStatus.SERVING, seconds=60
    )
    old = service_of(status, "web").container
    assert status.ingress.http_port == http_port
    assert await asyncio.to_thread(get, http_port) == (200, "one")

    done = asyncio.Event()

    async def load() -> set[tuple[int, str]]:
        answers: set[tuple[int, str]] = set()
        while not (done.is_set() and (200, "two") in answers):
            answers.add(await asyncio.to_thread(get, http_port))
        return answers

    requests = asyncio.create_task(load())
    slow = asyncio.create_task(asyncio.to_thread(get, http_port, "/cgi-bin/slow"))

    async def begun() -> bool:
        return "begun" in await asyncio.to_thread(docker, "exec", old, "ls", "/w")

    await eventually("the slow request has begun", begun, seconds=60)
    await node.assign(web(text="two", script=SLOW), release=2, ingress=ingress())
    await node.until(
        "it waits", lambda seen: service_of(seen, "web").reason.endswith("1 request is under way"), seconds=60
    )
    node.kill(signal.SIGKILL)
    assert await asyncio.to_thread(get, http_port) == (200, "two")
    node.start(*arguments)
    status = await node.until("it is followed again", lambda seen: seen.phase == Status.CONVERGING, seconds=60)
    assert docker("inspect", "--format", "{{.State.Running}}", old) == "true"
    docker("exec", old, "touch", "/w/go")
    assert await slow == (200, "one")
    await node.settled(seconds=60)
    done.set()
    assert await requests == {(200, "one"), (200, "two")}
    assert old not in node.containers()

    beat = await node.heartbeat()
    assert beat is not None
    certificate = encrypted_certificate(HOST, beat.age_recipient)
    sent = part(node, certificate=certificate)
    sent.key_request.CopyFrom(stored_pb2.KeyRequest(id="ab", host=HOST, recipients=[beat.age_recipient]))
    await send(node, sent)
    await node.until(
        "a certificate and a new key",
        lambda seen: (len(seen.ingress.certificates), len(seen.ingress.signing_requests)) == (1, 1),
        seconds=60,
    )
    # It takes 8 MiB for good: other processes do what needs it.
    assert "cryptography" not in mapped(node.pid)

    async def served() -> bool:
        return await asyncio.to_thread(serial_at, https_port) == certificate.serial

    await eventually("it is served by HTTPS", served, seconds=60)
    await node.assign(removed=True)
    await node.until("removed", lambda seen: seen.phase == Status.REMOVED, seconds=60)

    async def gone() -> bool:
        return not await asyncio.to_thread(node.containers)

    await eventually("and Envoy with it", gone, seconds=60)
