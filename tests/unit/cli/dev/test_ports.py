"""Free ports of this machine."""

from __future__ import annotations

import socket

from devopsellence.cli.dev.ports import FakePorts, MachinePorts


def test_port_with_listener_is_in_use() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert MachinePorts().why_not(port) == "the port is in use"
    assert MachinePorts().why_not(port) == ""


def test_chosen_port_is_free() -> None:
    ports = MachinePorts()
    assert ports.why_not(ports.choose()) == ""


def test_next_free_port_skips_avoided_ports() -> None:
    assert FakePorts(8080).next_free(8080, 8081) == 8082
    assert FakePorts().choose(20000) == 20001
