"""Detection of direct access to containers, by typical rule sets of Docker and administrators."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from devopsellence.nodeagent.api.isolation import (
    FilterUnavailable,
    ForwardFilter,
    Isolation,
    judge,
    parse,
    routed_interfaces,
)
from devopsellence.nodeagent.docker.streams import BridgeNetwork

OURS = BridgeNetwork("br-0a", own=True, ipv6=False)
BOTH = BridgeNetwork("br-0a", own=True, ipv6=True)
THEIRS = BridgeNetwork("docker0", own=False, ipv6=False)
BRIDGES = [OURS, THEIRS]
CHAINS = "-N DOCKER\n-N DOCKER-ISOLATION-STAGE-1\n-N DOCKER-ISOLATION-STAGE-2\n-N DOCKER-USER\n"
# As Docker 20.10 prints them, for the networks above.
JUMPS = "-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-ISOLATION-STAGE-1\n"
OLD = """\
-A FORWARD -o br-0a -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br-0a -j DOCKER
-A FORWARD -i br-0a ! -o br-0a -j ACCEPT
-A FORWARD -i br-0a -o br-0a -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i br-0a ! -o br-0a -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br-0a -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
"""
# As Docker 28 has them (its own integration/network/bridge/iptablesdoc).
NEW = """\
-N DOCKER
-N DOCKER-BRIDGE
-N DOCKER-CT
-N DOCKER-FORWARD
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER ! -i br-0a -o br-0a -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-BRIDGE -o br-0a -j DOCKER
-A DOCKER-CT -o br-0a -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i br-0a -j ACCEPT
"""
ACCEPT, DROP = "-P FORWARD ACCEPT\n", "-P FORWARD DROP\n"
FINE = "neighbours reach containers through the ingress only"


def by(**printed: str) -> Callable[[str], ForwardFilter]:
    def look(program: str) -> ForwardFilter:
        if program not in printed:
            raise FilterUnavailable(f"{program} is not installed")
        return parse(printed[program])

    return look


def judge_table(iptables: str, **more: str) -> Isolation:
    return judge(BRIDGES, {"eth0", "br-0a", "docker0"}, {"eth0", "br-0a", "docker0"}, by(iptables=iptables, **more))


USER = CHAINS + "-A DOCKER-USER {}\n-A DOCKER-USER -j RETURN\n" + JUMPS + OLD
SHUT: Mapping[str, str] = {
    "what Docker does by itself before 28": DROP + CHAINS + JUMPS + OLD,
    "what Docker does from 28 on": ACCEPT + NEW,
    "somebody drops what comes in": ACCEPT + USER.format("-i eth0 -j DROP"),
    "and lets answers through": ACCEPT + USER.format("-i eth+ -m conntrack ! --ctstate RELATED,ESTABLISHED -j REJECT"),
    "by state": ACCEPT + USER.format('-i eth0 -o br-+ -m state --state NEW -m comment --comment "no way" -j DROP'),
    "in a chain of one's own": ACCEPT + "-N mine\n-A mine ! -i lo -p tcp -j DROP\n" + USER.format("-g mine"),
    "some are let in": DROP + USER.format("-s 192.0.2.0/24 -i eth0 -j ACCEPT"),
    "nothing but a note is made of it": DROP + USER.format("-i eth0 -j LOG --log-prefix in"),
    "back to a policy": DROP + CHAINS + "-A FORWARD -j RETURN\n-A FORWARD -j ACCEPT\n",
}
OPEN: Mapping[str, tuple[str, str, str]] = {
    "it forwarded already when Docker started": (
        ACCEPT + CHAINS + JUMPS + OLD,
        "-P FORWARD ACCEPT",
        "iptables -P FORWARD DROP (as root; again after a reboot, unless docker.service has "
        "ExecStartPost=/usr/sbin/iptables -P FORWARD DROP (systemctl edit docker))",
    ),
    "a rule lets everybody in": (
        DROP + USER.format("-i eth0 -j ACCEPT"),
        "-A DOCKER-USER -i eth0 -j ACCEPT",
        "iptables -D DOCKER-USER -i eth0 -j ACCEPT (as root; again after a reboot, if the rule is recreated)",
    ),
    "only some are dropped": (
        ACCEPT + USER.format("-i eth0 ! -s 192.0.2.0/24 -j DROP"),
        "-P FORWARD ACCEPT",
        "iptables -P FORWARD DROP (",
    ),
    "another interface is shut": (ACCEPT + USER.format("-i eth1 -j DROP"), "-P FORWARD ACCEPT", "iptables -P"),
    "it comes back from a chain": (
        ACCEPT + "-N mine\n-A mine -j RETURN\n-A mine -j DROP\n" + USER.format("-j mine"),
        "-P FORWARD ACCEPT",
        "iptables -P",
    ),
}


@pytest.mark.parametrize("printed", SHUT.values(), ids=SHUT.keys())
def test_closed_firewall_admits_no_one(printed: str) -> None:
    assert judge_table(printed) == Isolation(FINE)


@pytest.mark.parametrize(("printed", "rule", "fix"), OPEN.values(), ids=OPEN.keys())
def test_open_firewall_is_reported_with_a_fix(printed: str, rule: str, fix: str) -> None:
    result = judge_table(printed)
    assert result.problem.endswith(f"past the ingress: iptables forwards from eth0 to br-0a by {rule}")
    assert result.fix.startswith(fix)
    command = result.fix.partition(" (")[0].removeprefix("iptables ")
    after = printed.replace(ACCEPT, f"{command}\n") if command.startswith("-P") else printed.replace(f"{rule}\n", "")
    assert judge_table(after) == Isolation(FINE)


def test_ipv6_networks_are_checked_with_both_programs() -> None:
    interfaces = {"eth0", "br-0a"}
    shut, opened = DROP + CHAINS + JUMPS + OLD, ACCEPT
    result = judge([BOTH], interfaces, interfaces, by(iptables=shut, ip6tables=opened))
    assert result.problem.endswith("ip6tables forwards from eth0 to br-0a by -P FORWARD ACCEPT")
    assert result.fix.startswith("ip6tables -P FORWARD DROP (")
    both = judge([BOTH], interfaces, interfaces, by(iptables=ACCEPT + CHAINS + JUMPS + OLD, ip6tables=opened))
    assert both.fix.startswith("iptables -P FORWARD DROP && ip6tables -P FORWARD DROP (")
    assert judge([BOTH], interfaces, interfaces, by(iptables=shut)) == Isolation("unknown: ip6tables is not installed")
    half = judge([BOTH], interfaces, interfaces, by(ip6tables=opened))
    assert "ip6tables forwards" in half.problem


@pytest.mark.parametrize(
    ("bridges", "outside", "look", "summary"),
    [
        pytest.param([THEIRS], {"eth0"}, by(), "no environment has a network here", id="nothing runs"),
        pytest.param(
            [BridgeNetwork("br-0b", own=True, ipv6=False)],
            {"eth0"},
            by(),
            "unknown: the engine's networks are not on the agent's machine",
            id="the engine is elsewhere",
        ),
        pytest.param(BRIDGES, {"eth0"}, by(), "unknown: iptables is not installed", id="no iptables"),
        pytest.param(
            BRIDGES, {"eth0"}, by(iptables=ACCEPT), "unknown: the engine has no rules in iptables", id="nftables"
        ),
        pytest.param(BRIDGES, {"br-0a"}, by(), FINE, id="no neighbours"),
    ],
)
def test_unknown_result_is_reported(
    bridges: list[BridgeNetwork], outside: set[str], look: Callable[[str], ForwardFilter], summary: str
) -> None:
    assert judge(bridges, {"eth0", "br-0a", "docker0"}, outside, look) == Isolation(summary)


def test_non_filter_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no chain FORWARD"):
        parse("iptables: nonsense")


def test_routed_interfaces_of_this_machine() -> None:
    assert "lo" not in routed_interfaces()
