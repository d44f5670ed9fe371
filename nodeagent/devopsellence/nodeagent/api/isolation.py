"""Whether neighbours of this machine reach containers directly, past the ingress.

An environment's network is no secret: who sits on the same network as a machine can send it packets for containers, and
the machine forwards them unless its packet filter says otherwise. Docker says so from 28.0 on by a rule for each
bridge; before, only by FORWARD's policy, which it leaves alone where the machine forwarded already when Docker started
("Docker on a router" in Docker's documentation). So it is the rules that are looked at, and not a version.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

from devopsellence.nodeagent.api.forwarding import Filter, parse
from devopsellence.nodeagent.docker.streams import Bridge

IPV4: Final = "iptables"
IPV6: Final = "ip6tables"
_SECONDS: Final = 2.0
_FINE: Final = "neighbours reach containers by the ingress alone"


class NotKnown(Exception):
    """It cannot be found out; with why."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """``problem``: how neighbours get in, and ``mend``: what shuts them out. ``said``: where there is no problem."""

    said: str
    problem: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """How a neighbour gets in: ``rule``, as ``program`` prints it, lets through what comes by the interface ``source``
    for the bridge ``target``."""

    program: str
    rule: str
    source: str
    target: str


def measure(bridges: Collection[Bridge]) -> Isolation:
    """How it is on this machine. Blocks, for some seconds at worst. ``bridges``: the engine's networks."""
    interfaces = {name for _, name in socket.if_nameindex()}
    return judge(bridges, interfaces, neighbourly() & interfaces, rules)


def judge(
    bridges: Collection[Bridge],
    interfaces: Collection[str],
    outside: Collection[str],
    look: Callable[[str], Filter],
) -> Isolation:
    """``interfaces``: this machine's; ``outside``: those that lead anywhere, the engine's own among them; ``look``: the
    rules by the program that shows them, or NotKnown."""
    ours = [bridge for bridge in bridges if bridge.ours]
    if not ours:
        return Isolation("no environment has a network here")
    if not all(each.name in interfaces for each in ours):
        return Isolation("not known: the engine's networks are not where the agent runs")
    arrives = sorted(set(outside) - {bridge.name for bridge in bridges})
    wanted = {IPV4: [each.name for each in ours], IPV6: [each.name for each in ours if each.ipv6]}
    ways: list[Way] = []
    unknown: list[str] = []
    for program, leaves in wanted.items():
        if not leaves or not arrives:
            continue
        try:
            table = look(program)
        except NotKnown as why:
            unknown.append(str(why))
            continue
        found = _ways(program, table, arrives, leaves)
        if found and program == IPV4 and not any(chain.startswith("DOCKER") for chain in table.chains):
            # It may have them in nftables, where another look would be needed.
            return Isolation("not known: the engine has no rules in iptables")
        ways += found
    if ways:
        return Isolation("", _problem(ways), _mend(ways))
    return Isolation(f"not known: {'; '.join(unknown)}" if unknown else _FINE)


def rules(program: str) -> Filter:
    """The filter table as ``program`` shows it, or NotKnown."""
    # Where root's programs are is not on everybody's path.
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise NotKnown(f"there is no {program}")
    try:
        done = subprocess.run([path, "-w", "1", "-S"], capture_output=True, text=True, check=False, timeout=_SECONDS)
        if done.returncode != 0:
            raise NotKnown(f"{program} fails: {' '.join(done.stderr.split())}")
        return parse(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise NotKnown(f"{program} does not answer") from error
    except (OSError, ValueError) as error:
        raise NotKnown(f"{program} cannot be used: {error}") from error


def neighbourly() -> set[str]:
    """The interfaces that a way leads out of, from the kernel: proc(5), ``/proc/net/route`` and ``ipv6_route``."""
    found = {line.split()[0] for line in _lines("route")[1:]}
    # Every interface that is up has the link-local and the multicast network.
    found |= {line.split()[-1] for line in _lines("ipv6_route") if not line.startswith(("fe80", "ff00"))}
    return found - {"lo"}


def _lines(table: str) -> list[str]:
    """Nothing where the kernel has no such protocol."""
    file = Path("/proc/self/net") / table
    return file.read_text().splitlines() if file.exists() else []


def _ways(program: str, table: Filter, arrives: Sequence[str], leaves: Sequence[str]) -> list[Way]:
    """The rules that let somebody in, each with one example."""
    found: dict[str, Way] = {}
    for source, target in product(arrives, leaves):
        if rule := table.lets_through(source, target):
            found.setdefault(rule, Way(program, rule, source, target))
    return list(found.values())


def _problem(ways: Sequence[Way]) -> str:
    said = "; ".join(f"{way.program} forwards from {way.source} to {way.target} by {way.rule}" for way in ways)
    return f"neighbours of this machine reach every port of containers directly, past the ingress: {said}"


def _mend(ways: Sequence[Way]) -> str:
    """The commands, and in parentheses what makes them last."""
    commands = [f"{way.program} {_undone(way.rule)}" for way in ways]
    lasting = [f"ExecStartPost=/usr/sbin/{command}" for command in commands if " -P " in command]
    how = (
        f"unless docker.service has {' and '.join(lasting)} (systemctl edit docker)"
        if lasting
        else "if it is made anew"
    )
    return f"{' && '.join(commands)} (as root; again after a reboot, {how})"


def _undone(rule: str) -> str:
    return "-P FORWARD DROP" if rule.startswith("-P ") else f"-D {rule.removeprefix('-A ')}"
