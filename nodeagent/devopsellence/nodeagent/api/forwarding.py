"""What a machine's packet filter does with a connection that it is to forward, worked out from what iptables prints.

About a new TCP connection from anybody, of which only the two interfaces are known. A rule that goes by anything else
(addresses, ports, marks) is about some connections only, and is passed over. So are targets that end nothing, as LOG.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_ENDS: Final = {"ACCEPT": True, "DROP": False, "REJECT": False}
_START: Final = "FORWARD"
_STATES: Final = ("--ctstate", "--state")
#: Say nothing about which packets: modules of matches that are understood, and remarks.
_WITHOUT_MEANING: Final = ("-m", "--comment")


@dataclass(frozen=True, slots=True)
class Rule:
    """``text``: as iptables prints it. ``matches``: an option, its value, and whether it is negated. ``goes``: it does
    not come back from the chain ``target``."""

    text: str
    matches: tuple[tuple[str, str, bool], ...]
    target: str
    goes: bool

    def about(self, arrives: str, leaves: str) -> bool:
        """It applies to every new TCP connection between these interfaces."""
        return all(_holds(option, value, arrives, leaves) is (not negated) for option, value, negated in self.matches)


@dataclass(frozen=True, slots=True)
class Filter:
    """The filter table: the rules of each chain, and what becomes of what no rule of FORWARD decides."""

    chains: Mapping[str, Sequence[Rule]]
    accepts: bool

    def lets_through(self, arrives: str, leaves: str) -> str:
        """The rule, or the policy, that lets such a connection through, as iptables prints it; empty when none does."""
        accepted, by = self._walk(_START, arrives, leaves) or (self.accepts, f"-P {_START} ACCEPT")
        return by if accepted else ""

    def _walk(self, chain: str, arrives: str, leaves: str) -> tuple[bool, str] | None:
        """The end that it finds in a chain, and by which rule; None when it comes back. Chains have no circles."""
        for rule in self.chains.get(chain, ()):
            if not rule.about(arrives, leaves):
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


def parse(printed: str) -> Filter:
    """What ``iptables -S`` prints. ValueError where that is no such thing."""
    chains: dict[str, list[Rule]] = {}
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
    return Filter(chains, accepts)


def _rule(text: str, words: Sequence[str]) -> Rule:
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
    return Rule(text, tuple(matches), target, goes)


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
