"""Checks of TCP ports on this machine."""

from __future__ import annotations

import os
import socket

import pytest

from devopsellence.nodeagent.envoy.model import IngressOptions
from devopsellence.nodeagent.ingress.ports import port_problem


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "with SO_REUSEPORT"])
def test_problem_of_taken_port_names_its_holder(address: str, shared: bool) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        holder.bind((address, 0))
        holder.listen()
        port = holder.getsockname()[1]
        problem = port_problem(port, "start the agent with another --ingress-http-port")
    assert problem.startswith(f"port {port} is taken by ")
    assert f"(process {os.getpid()}): free it, or start the agent with another --ingress-http-port" in problem
    assert port_problem(port, "start the agent with another --ingress-http-port") == ""


@pytest.mark.parametrize(
    ("port", "local_cluster", "change"),
    [
        (80, False, "start the agent with another --ingress-http-port"),
        (443, False, "start the agent with another --ingress-https-port"),
        (7444, False, "start the agent with another --ingress-peer-port"),
        (80, True, "choose another one: devopsellence dev up --http-port <port>"),
        (443, True, "choose another one: devopsellence dev up --https-port <port>"),
    ],
)
def test_port_is_changed_by_the_command_that_started_the_agent(port: int, local_cluster: bool, change: str) -> None:
    options = IngressOptions(http_port=80, https_port=443, peer_port=7444, local_cluster=local_cluster)
    assert options.change_of(port) == change


def test_no_option_of_the_agent_is_named_in_a_local_cluster() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        options = IngressOptions(http_port=port, peer_port=0, local_cluster=True)
        problem = port_problem(port, options.change_of(port))
    assert problem.endswith("free it, or choose another one: devopsellence dev up --http-port <port>")
