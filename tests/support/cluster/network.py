"""Network of the bed: a switch in a machine of its own, with a link to each machine and to the operator.

The bridge is in the switch, so nothing here touches the packet filter of the operator's machine. Beds have numbers;
their networks are 10.99.<number>.0/24.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from pathlib import Path
from typing import Final

from tests.support.cluster.machine import Machine

OPERATOR: Final = 1
_BEDS: Final = 200


def address(bed: int, machine: int) -> str:
    """Return the address of a machine, by number."""
    return f"10.99.{bed}.{machine}"


class Switch(Machine):
    """Switch between the machines of a bed. The switch's end of a link is called like the machine's ``port``."""

    def __init__(self, folder: Path, logs: Path) -> None:
        super().__init__("switch", "", folder, logs)

    def connect_operator(self) -> int:
        """Join this machine to the running switch; return the number of the bed, unique on this machine.

        Raises:
            RuntimeError: no network is free.
        """
        self._ip("link add bridge type bridge", "link set bridge up")
        used = _networks()
        for bed in range(_BEDS):
            network = ipaddress.IPv4Network(f"{address(bed, 0)}/24")
            link = f"dvo-bed{bed}"
            # Making the link is what takes the number. It goes when the switch does.
            make = ["ip", "link", "add", link, "type", "veth", "peer", "name", "operator", "netns", str(self.init.pid)]
            if any(network.overlaps(route) for route in used):
                continue
            if subprocess.run(make, capture_output=True, check=False).returncode == 0:
                self._ip("link set operator master bridge", "link set operator up")
                _ip_batch([], f"address add {address(bed, OPERATOR)}/24 dev {link}", f"link set {link} up")
                return bed
        raise RuntimeError("no network 10.99.<number>.0/24 is free here: 'ip route' shows who has them")

    def connect(self, machine: Machine) -> None:
        """Give a running machine a link and an address."""
        # The link of a machine that was switched off goes some time after it.
        old = [*_in_network_of(self), "ip", "link", "delete", machine.port]
        subprocess.run(old, capture_output=True, check=False)
        self._ip(
            f"link add {machine.port} type veth peer name eth0 netns {machine.init.pid}",
            f"link set {machine.port} master bridge",
            f"link set {machine.port} up",
        )
        _ip_batch(
            _in_network_of(machine),
            "link set lo up",
            f"address add {machine.address}/24 dev eth0",
            "link set eth0 up",
        )

    def cut(self, machine: Machine) -> None:
        """Take a machine's link out of the switch: both ends stay up, and packets are lost."""
        self._ip(f"link set {machine.port} nomaster")

    def join(self, machine: Machine) -> None:
        """Put a machine's link back into the switch."""
        self._ip(f"link set {machine.port} master bridge")

    def _ip(self, *commands: str) -> None:
        _ip_batch(_in_network_of(self), *commands)


def _in_network_of(machine: Machine) -> list[str]:
    return ["nsenter", "--target", str(machine.init.pid), "--net", "--"]


def _ip_batch(prefix: list[str], *commands: str) -> None:
    result = subprocess.run(
        [*prefix, "ip", "-batch", "-"], input="\n".join(commands), capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"the bed's network cannot be made: {result.stderr.strip()}")


def _networks() -> list[ipaddress.IPv4Network]:
    """Return the networks that this machine has routes to."""
    result = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, text=True, check=True)
    named = [load["dst"] for load in json.loads(result.stdout or "[]") if load["dst"] != "default"]
    return [ipaddress.IPv4Network(route) for route in named]
