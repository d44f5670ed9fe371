"""Whether neighbours of this machine reach containers directly, past the ingress.

An environment's network is no secret: who sits on the same network as a machine can send it packets for containers, and
the machine forwards them unless its packet filter says otherwise. Docker says so from 28.0 on by a rule for each
bridge; before, only by FORWARD's policy, which it leaves alone where the machine forwarded already when Docker started
("Docker on a router" in Docker's documentation). So it is the rules that are looked at, and not a version.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

from devopsellence.nodeagent.docker.streams import BridgeNetwork

IPV4: Final = "iptables"
IPV6: Final = "ip6tables"
_SECONDS: Final = 2.0
_ENDS: Final = {"ACCEPT": True, "DROP": False, "REJECT": False}
_START: Final = "FORWARD"
_STATES: Final = ("--ctstate", "--state")
#: Say nothing about which packets: modules of matches that are understood, and remarks.
_WITHOUT_MEANING: Final = ("-m", "--comment")
_FINE: Final = "neighbours reach containers by the ingress alone"


class FilterUnavailable(Exception):
    """It cannot be found out; with why."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """``problem``: how neighbours get in, and ``mend``: what shuts them out. ``said``: where there is no problem."""

    summary: str
    problem: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class ForwardedPath:
    """How a neighbour gets in: ``rule``, as ``program`` prints it, lets through what comes by the interface ``source``
    for the bridge ``target``."""

    program: str
    rule: str
    source: str
    target: str


def measure(bridges: Collection[BridgeNetwork]) -> Isolation:
    """How it is on this machine. Blocks, for some seconds at worst. ``bridges``: the engine's networks."""
    interfaces = {name for _, name in socket.if_nameindex()}
    return judge(bridges, interfaces, routed_interfaces() & interfaces, filter_table)


def judge(
    bridges: Collection[BridgeNetwork],
    interfaces: Collection[str],
    outside: Collection[str],
    look: Callable[[str], ForwardFilter],
) -> Isolation:
    """``interfaces``: this machine's; ``outside``: those that lead anywhere, the engine's own among them; ``look``: the
    rules by the program that shows them, or NotKnown."""
    ours = [bridge for bridge in bridges if bridge.own]
    if not ours:
        return Isolation("no environment has a network here")
    if not all(each.name in interfaces for each in ours):
        return Isolation("not known: the engine's networks are not where the agent runs")
    arrives = sorted(set(outside) - {bridge.name for bridge in bridges})
    wanted = {IPV4: [each.name for each in ours], IPV6: [each.name for each in ours if each.ipv6]}
    ways: list[ForwardedPath] = []
    unknown: list[str] = []
    for program, leaves in wanted.items():
        if not leaves or not arrives:
            continue
        try:
            table = look(program)
        except FilterUnavailable as why:
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


def filter_table(program: str) -> ForwardFilter:
    """The filter table as ``program`` shows it, or NotKnown."""
    # Where root's programs are is not on everybody's path.
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise FilterUnavailable(f"there is no {program}")
    try:
        done = subprocess.run([path, "-w", "1", "-S"], capture_output=True, text=True, check=False, timeout=_SECONDS)
        if done.returncode != 0:
            raise FilterUnavailable(f"{program} fails: {' '.join(done.stderr.split())}")
        return parse(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise FilterUnavailable(f"{program} does not answer") from error
    except (OSError, ValueError) as error:
        raise FilterUnavailable(f"{program} cannot be used: {error}") from error


def routed_interfaces() -> set[str]:
    """The interfaces that a way leads out of, from the kernel: proc(5), ``/proc/net/route`` and ``ipv6_route``."""
    found = {line.split()[0] for line in _lines("route")[1:]}
    # Every interface that is up has the link-local and the multicast network.
    found |= {line.split()[-1] for line in _lines("ipv6_route") if not line.startswith(("fe80", "ff00"))}
    return found - {"lo"}


def _lines(table: str) -> list[str]:
    """Nothing where the kernel has no such protocol."""
    file = Path("/proc/self/net") / table
    return file.read_text().splitlines() if file.exists() else []


def _ways(program: str, table: ForwardFilter, arrives: Sequence[str], leaves: Sequence[str]) -> list[ForwardedPath]:
    """The rules that let somebody in, each with one example."""
    found: dict[str, ForwardedPath] = {}
    for source, target in product(arrives, leaves):
        if rule := table.lets_through(source, target):
            found.setdefault(rule, ForwardedPath(program, rule, source, target))
    return list(found.values())


def _problem(ways: Sequence[ForwardedPath]) -> str:
    said = "; ".join(f"{way.program} forwards from {way.source} to {way.target} by {way.rule}" for way in ways)
    return f"neighbours of this machine reach every port of containers directly, past the ingress: {said}"


def _mend(ways: Sequence[ForwardedPath]) -> str:
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


@dataclass(frozen=True, slots=True)
class ForwardRule:
    """``text``: as iptables prints it. ``matches``: an option, its value, and whether it is negated. ``goes``: it does
    not come back from the chain ``target``."""

    text: str
    matches: tuple[tuple[str, str, bool], ...]
    target: str
    goes: bool

    def applies_to(self, arrives: str, leaves: str) -> bool:
        """It applies to every new TCP connection between these interfaces."""
        return all(_holds(option, value, arrives, leaves) is (not negated) for option, value, negated in self.matches)


@dataclass(frozen=True, slots=True)
class ForwardFilter:
    """The filter table: the rules of each chain, and what becomes of what no rule of FORWARD decides."""

    chains: Mapping[str, Sequence[ForwardRule]]
    accepts: bool

    def lets_through(self, arrives: str, leaves: str) -> str:
        """The rule, or the policy, that lets such a connection through, as iptables prints it; empty when none does."""
        accepted, by = self._walk(_START, arrives, leaves) or (self.accepts, f"-P {_START} ACCEPT")
        return by if accepted else ""

    def _walk(self, chain: str, arrives: str, leaves: str) -> tuple[bool, str] | None:
        """The end that it finds in a chain, and by which rule; None when it comes back. Chains have no circles."""
        for rule in self.chains.get(chain, ()):
            if not rule.applies_to(arrives, leaves):
                continue
            if rule.target in _ENDS:
                return _ENDS[rule.target], rule.text
            if rule.target == "RETURN":
                return None
            if rule.target in self.chains:
                found = self._walk(rule.target, arrives, leaves)
                if found or rule.goes:
                    return found
        return None


def parse(printed: str) -> ForwardFilter:
    """What ``iptables -S`` prints. ValueError where that is no such thing."""
    chains: dict[str, list[ForwardRule]] = {}
    accepts = True
    for line in printed.splitlines():
        match shlex.split(line):
            case ["-P", chain, policy, *_]:
                chains.setdefault(chain, [])
                accepts = policy == "ACCEPT" if chain == _START else accepts
            case ["-N", chain]:
                chains.setdefault(chain, [])
            case ["-A", chain, *words]:
                chains.setdefault(chain, []).append(_rule(line, words))
    if _START not in chains:
        raise ValueError("it has no chain FORWARD")
    return ForwardFilter(chains, accepts)


def _rule(text: str, words: Sequence[str]) -> ForwardRule:
    """A rule in words. Before an option stands ``!`` if it is negated, behind it one value, or none or more."""
    matches: list[tuple[str, str, bool]] = []
    target, goes, at = "", False, 0
    while at < len(words) and not target:
        negated = words[at] == "!"
        at += negated
        option = words[at]
        at += 1
        values = at
        while at < len(words) and words[at] != "!" and not words[at].startswith("-"):
            at += 1
        value = " ".join(words[values:at])
        if option in ("-j", "-g"):
            # What follows are the target's own options.
            target, goes = value, option == "-g"
        elif option not in _WITHOUT_MEANING:
            matches.append((option, value, negated))
    return ForwardRule(text, tuple(matches), target, goes)


def _holds(option: str, value: str, arrives: str, leaves: str) -> bool | None:
    """None: of some connections."""
    if option == "-i":
        return _named(value, arrives)
    if option == "-o":
        return _named(value, leaves)
    if option == "-p":
        return value in ("tcp", "all")
    if option in _STATES:
        return "NEW" in value.split(",")
    return None


def _named(pattern: str, interface: str) -> bool:
    """``+`` at the end stands for any end."""
    return interface.startswith(pattern[:-1]) if pattern.endswith("+") else interface == pattern
