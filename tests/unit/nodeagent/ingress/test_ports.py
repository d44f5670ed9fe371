"""Whether a port may be listened on, asked of this machine."""

from __future__ import annotations

import os
import socket

import pytest

from devopsellence.nodeagent.ingress.ports import why_not


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "with SO_REUSEPORT"])
def test_a_taken_port_is_refused_and_its_holder_named(address: str, shared: bool) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        holder.bind((address, 0))
        holder.listen()
        port = holder.getsockname()[1]
        found = why_not(port, "--ingress-http-port")
    assert found.startswith(f"port {port} is taken by ")
    assert f"(process {os.getpid()}): free it, or start the agent with another --ingress-http-port" in found
    assert why_not(port, "--ingress-http-port") == ""
