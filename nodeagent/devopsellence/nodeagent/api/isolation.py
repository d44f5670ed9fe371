"""Isolation of containers from the machine's network: detects direct access past the ingress.

Other machines on the same network can send packets for containers, and this machine forwards them unless the packet
filter drops them. Docker 28 and later adds a rule per bridge; earlier versions only set the policy of the FORWARD
chain, and not even that where forwarding was already enabled when Docker started ("Docker on a router" in Docker's
documentation). So the rules are checked, not the version.

The rules are evaluated for a new TCP connection between two interfaces, with nothing else known. Rules with further
conditions (addresses, ports, marks) concern only some connections, and are skipped; so are targets without a verdict,
such as LOG.
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
_TARGETS: Final = {"ACCEPT": True, "DROP": False, "REJECT": False}
_START: Final = "FORWARD"
_STATES: Final = ("--ctstate", "--state")
#: Options without influence on matching: modules of known matches, and comments.
_IGNORED_OPTIONS: Final = ("-m", "--comment")
_FINE: Final = "neighbours reach containers through the ingress only"


class FilterUnavailable(Exception):
    """The packet filter cannot be read; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """Result of the check. ``problem``: the way past the ingress. ``fix``: commands to close it. ``summary``: the
    result without a problem."""

    summary: str
    problem: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class ForwardedPath:
    """A path past the ingress: ``rule``, as printed by ``program``, forwards packets from interface ``source`` to
    bridge ``target``."""

    program: str
    rule: str
    source: str
    target: str


def measure(bridges: Collection[BridgeNetwork]) -> Isolation:
    """Check this machine. Blocks, for seconds at worst. ``bridges``: the engine's networks."""
    interfaces = {name for _, name in socket.if_nameindex()}
    return judge(bridges, interfaces, routed_interfaces() & interfaces, filter_table)


def judge(
    bridges: Collection[BridgeNetwork],
    interfaces: Collection[str],
    outside: Collection[str],
    get_table: Callable[[str], ForwardFilter],
) -> Isolation:
    """Check a packet filter. ``interfaces``: of this machine. ``outside``: interfaces with a route, including the
    engine's. ``get_table(program)`` returns the filter table or raises FilterUnavailable."""
    own = [bridge for bridge in bridges if bridge.own]
    if not own:
        return Isolation("no environment has a network here")
    if not all(bridge.name in interfaces for bridge in own):
        return Isolation("unknown: the engine's networks are not on the agent's machine")
    sources = sorted(set(outside) - {bridge.name for bridge in bridges})
    own_bridges = {IPV4: [bridge.name for bridge in own], IPV6: [bridge.name for bridge in own if bridge.ipv6]}
    paths: list[ForwardedPath] = []
    unknown: list[str] = []
    for program, targets in own_bridges.items():
        if not targets or not sources:
            continue
        try:
            table = get_table(program)
        except FilterUnavailable as error:
            unknown.append(str(error))
            continue
        new_paths = _forwarded_paths(program, table, sources, targets)
        if new_paths and program == IPV4 and not any(chain.startswith("DOCKER") for chain in table.chains):
            # The engine may use nftables, which is not checked.
            return Isolation("unknown: the engine has no rules in iptables")
        paths += new_paths
    if paths:
        return Isolation("", _problem(paths), _fix(paths))
    return Isolation(f"unknown: {'; '.join(unknown)}" if unknown else _FINE)


def filter_table(program: str) -> ForwardFilter:
    """Return the filter table printed by ``program``, or raise FilterUnavailable."""
    # The folders of root's programs are not always on the PATH.
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise FilterUnavailable(f"{program} is not installed")
    try:
        result = subprocess.run([path, "-w", "1", "-S"], capture_output=True, text=True, check=False, timeout=_SECONDS)
        if result.returncode != 0:
            raise FilterUnavailable(f"{program} fails: {' '.join(result.stderr.split())}")
        return parse(result.stdout)
    except subprocess.TimeoutExpired as error:
        raise FilterUnavailable(f"{program} does not answer") from error
    except (OSError, ValueError) as error:
        raise FilterUnavailable(f"{program} cannot be used: {error}") from error


def routed_interfaces() -> set[str]:
    """Return the interfaces with a route, from the kernel: proc(5), ``/proc/net/route`` and ``ipv6_route``."""
    interfaces = {line.split()[0] for line in _lines("route")[1:]}
    # Every active interface has link-local and multicast routes.
    interfaces |= {line.split()[-1] for line in _lines("ipv6_route") if not line.startswith(("fe80", "ff00"))}
    return interfaces - {"lo"}


def _lines(table: str) -> list[str]:
    """Return the lines of a kernel table; empty without the protocol."""
    file = Path("/proc/self/net") / table
    return file.read_text().splitlines() if file.exists() else []


def _forwarded_paths(
    program: str, table: ForwardFilter, sources: Sequence[str], targets: Sequence[str]
) -> list[ForwardedPath]:
    """Return the rules that forward packets from outside, each with an example."""
    paths: dict[str, ForwardedPath] = {}
    for source, target in product(sources, targets):
        if rule := table.lets_through(source, target):
            paths.setdefault(rule, ForwardedPath(program, rule, source, target))
    return list(paths.values())


def _problem(paths: Sequence[ForwardedPath]) -> str:
    details = "; ".join(f"{path.program} forwards from {path.source} to {path.target} by {path.rule}" for path in paths)
    return f"machines on the same network reach every port of containers directly, past the ingress: {details}"


def _fix(paths: Sequence[ForwardedPath]) -> str:
    """Return the commands to close all paths, and in parentheses the steps to make them permanent."""
    commands = [f"{path.program} {_reverted(path.rule)}" for path in paths]
    overrides = [f"ExecStartPost=/usr/sbin/{command}" for command in commands if " -P " in command]
    condition = (
        f"unless docker.service has {' and '.join(overrides)} (systemctl edit docker)"
        if overrides
        else "if the rule is recreated"
    )
    return f"{' && '.join(commands)} (as root; again after a reboot, {condition})"


def _reverted(rule: str) -> str:
    return "-P FORWARD DROP" if rule.startswith("-P ") else f"-D {rule.removeprefix('-A ')}"


@dataclass(frozen=True, slots=True)
class ForwardRule:
    """A rule. ``text``: as printed by iptables. ``matches``: option, value, negated. ``is_goto``: no return from the
    chain ``target``."""

    text: str
    matches: tuple[tuple[str, str, bool], ...]
    target: str
    is_goto: bool

    def applies_to(self, source: str, target: str) -> bool:
        """Return True if the rule applies to every new TCP connection between the interfaces."""
        return all(_holds(option, value, source, target) is (not negated) for option, value, negated in self.matches)


@dataclass(frozen=True, slots=True)
class ForwardFilter:
    """Filter table: the rules of each chain, and the policy of the chain FORWARD."""

    chains: Mapping[str, Sequence[ForwardRule]]
    accepts: bool

    def lets_through(self, source: str, target: str) -> str:
        """Return the rule or policy that accepts a connection, as printed by iptables; empty if dropped."""
        accepted, rule = self._walk(_START, source, target) or (self.accepts, f"-P {_START} ACCEPT")
        return rule if accepted else ""

    def _walk(self, chain: str, source: str, target: str) -> tuple[bool, str] | None:
        """Return the verdict of a chain and the deciding rule; None on return from the chain. Chains contain no
        cycles."""
        for rule in self.chains.get(chain, ()):
            if not rule.applies_to(source, target):
                continue
            if rule.target in _TARGETS:
                return _TARGETS[rule.target], rule.text
            if rule.target == "RETURN":
                return None
            if rule.target in self.chains:
                verdict = self._walk(rule.target, source, target)
                if verdict or rule.is_goto:
                    return verdict
        return None


def parse(printed: str) -> ForwardFilter:
    """Parse the output of ``iptables -S``. ValueError for anything else."""
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
        raise ValueError("there is no chain FORWARD")
    return ForwardFilter(chains, accepts)


def _rule(text: str, words: Sequence[str]) -> ForwardRule:
    """Parse a rule. An option may be preceded by ``!`` for negation, and followed by any number of values."""
    matches: list[tuple[str, str, bool]] = []
    target, is_goto, position = "", False, 0
    while position < len(words) and not target:
        negated = words[position] == "!"
        position += negated
        option = words[position]
        position += 1
        values = position
        while position < len(words) and words[position] != "!" and not words[position].startswith("-"):
            position += 1
        value = " ".join(words[values:position])
        if option in ("-j", "-g"):
            # The remaining options belong to the target.
            target, is_goto = value, option == "-g"
        elif option not in _IGNORED_OPTIONS:
            matches.append((option, value, negated))
    return ForwardRule(text, tuple(matches), target, is_goto)


def _holds(option: str, value: str, source: str, target: str) -> bool | None:
    """Evaluate a match; None if the match concerns only some connections."""
    if option == "-i":
        return _named(value, source)
    if option == "-o":
        return _named(value, target)
    if option == "-p":
        return value in ("tcp", "all")
    if option in _STATES:
        return "NEW" in value.split(",")
    return None


def _named(pattern: str, interface: str) -> bool:
    """Match an interface name against a pattern; ``+`` at the end matches any suffix."""
    return interface.startswith(pattern[:-1]) if pattern.endswith("+") else interface == pattern
