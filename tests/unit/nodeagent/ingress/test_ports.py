"""Checks of TCP ports on this machine."""

from __future__ import annotations

import os
import socket

import pytest

from devopsellence.nodeagent.ingress.ports import port_problem


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "with SO_REUSEPORT"])
def test_problem_of_taken_port_names_its_holder(address: str, shared: bool) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        holder.bind((address, 0))
        holder.listen()
        port = holder.getsockname()[1]
        problem = port_problem(port, "--ingress-http-port")
    assert problem.startswith(f"port {port} is taken by ")
    assert f"(process {os.getpid()}): free it, or start the agent with another --ingress-http-port" in problem
    assert port_problem(port, "--ingress-http-port") == ""
