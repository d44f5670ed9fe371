"""Addresses as targets of gRPC: directly and through an ssh host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.cli import reach
from devopsellence.cli.ssh import tunnel
from devopsellence.cli.ssh.host import SshHost
from devopsellence.store.settings import Settings

DIRECT = Settings(endpoints=("10.0.0.1:2381", "10.0.0.2:2381"), prefix="/other/")
HOST = SshHost("bastion", "ops")


@pytest.fixture(autouse=True)
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SshHost, list[str]]]:
    """Requests for sockets, which nobody makes."""
    found: list[tuple[SshHost, list[str]]] = []
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("DEVOPSELLENCE_HOME", "/run/ann")
    monkeypatch.setattr(tunnel, "forward", lambda host, addresses, may_ask: found.append((host, list(addresses))))
    return found


async def test_direct_addresses_are_targets_as_they_are(forwarded: list[object]) -> None:
    assert reach.through(DIRECT, None) is DIRECT
    assert await reach.target(DIRECT, "no address") == "no address"
    assert await reach.socket_path(DIRECT, "10.0.0.1:2381") is None
    reach.prepare(DIRECT)
    assert forwarded == []


async def test_addresses_behind_a_host_are_sockets(forwarded: list[object]) -> None:
    settings = reach.through(DIRECT, HOST)
    assert (settings.endpoints, settings.prefix, reach.ssh_host(settings)) == (DIRECT.endpoints, "/other/", HOST)
    reach.prepare(settings)
    targets = [await reach.target(settings, endpoint) for endpoint in settings.endpoints]
    paths = [target.removeprefix("unix:") for target in targets]
    assert all(Path(path).is_relative_to("/run/ann/ssh") for path in paths)
    assert settings.target == f"unix:{','.join(paths)}"
    assert replace(settings, endpoints=DIRECT.endpoints[:1]).target == targets[0]
    assert forwarded == [(HOST, list(DIRECT.endpoints)), *((HOST, [endpoint]) for endpoint in DIRECT.endpoints)]


def test_endpoints_are_described_with_the_way_to_them() -> None:
    assert reach.described(DIRECT) == "10.0.0.1:2381, 10.0.0.2:2381"
    assert reach.described(reach.through(DIRECT, HOST)) == "10.0.0.1:2381, 10.0.0.2:2381 through ssh ops@bastion"


@pytest.mark.parametrize("address", ["10.0.0.1:1", "[fd00::1]:7443", "n1.example.com:7443", "n1:65535"])
async def test_address_of_a_record_is_accepted(address: str) -> None:
    assert (await reach.target(reach.through(DIRECT, HOST), address)).startswith("unix:/run/ann/ssh/")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            ":",
            "n1",
            "n1:",
            ":7443",
            "n1:0",
            "n1:65536",
            "n1:x",
            "n1:\uff17",
            "fd00::1:7443",
            "[fd00::1%eth0]:7443",
        ),
        # ssh would take them for a socket on its host, for a port of this machine, or for an option.
        *("/run/docker.sock:1", "x:/run/docker.sock", "a:b:7443", "-x:7443", "n1 -R:7443", "n1\n:7443", "*:7443"),
    ],
)
async def test_address_that_ssh_could_mistake_is_refused(address: str, forwarded: list[object]) -> None:
    with pytest.raises(reach.UnusableAddress):
        await reach.target(reach.through(DIRECT, HOST), address)
    assert forwarded == []
