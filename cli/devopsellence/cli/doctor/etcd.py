"""Checks of the gateways and of etcd behind them: reachability, leader, alarms, database size.

A gateway passes a request for the status on to one member of etcd. Without gateways the endpoints are the members.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from devopsellence.cli import errors
from devopsellence.cli.cluster.programs import QUOTA_BYTES
from devopsellence.cli.output import CheckResult, NextAction
from devopsellence.cli.store.reader import concurrently
from devopsellence.store.errors import StoreError
from devopsellence.store.types import Member

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

_SECONDS: Final = 2.0
#: Share of the quota from which the size of etcd's database is a warning.
_FULL: Final = 0.8
_MIB: Final = 1024**2
_DEFRAG: Final = NextAction("free unused space, on the machine with root's certificate", "deploy/etcd/etcd.sh defrag")
#: Name of etcd behind gateways, which do not tell its members apart.
_BEHIND: Final = "etcd"


async def etcd_results(etcd: Etcd, settings: Settings, gateways: Collection[str]) -> list[CheckResult]:
    """Check each endpoint separately; ``gateways`` are the endpoints that are no members of etcd.

    Raises:
        StoreError: no endpoint answers.
    """
    from devopsellence.store.etcd import Etcd as Connection

    async def ask(endpoint: str) -> Member | StoreError:
        try:
            async with Connection(replace(settings, endpoints=(endpoint,)), timeout=_SECONDS) as endpoint_etcd:
                return await endpoint_etcd.member()
        except StoreError as error:
            return error

    if len(settings.endpoints) == 1:
        members: dict[str, Member | StoreError] = {settings.endpoints[0]: await etcd.member()}
    else:
        answers = await concurrently(ask(endpoint) for endpoint in settings.endpoints)
        members = dict(zip(settings.endpoints, answers, strict=True))
    return member_results(members, gateways)


def member_results(answers: Mapping[str, Member | StoreError], gateways: Collection[str] = ()) -> list[CheckResult]:
    """Return the results for the endpoints, by answer; ``gateways`` are those that are no members of etcd.

    Raises:
        StoreError: no endpoint answered.
    """
    members = {endpoint: answer for endpoint, answer in answers.items() if isinstance(answer, Member)}
    if not members:
        raise next(answer for answer in answers.values() if isinstance(answer, StoreError))
    checks = [_overview(members, gateways)]
    for endpoint, answer in answers.items():
        if isinstance(answer, StoreError):
            checks.append(_unreachable(endpoint, answer, is_gateway=endpoint in gateways))
    seen = _told_apart(members, gateways)
    for name, member in seen.items():
        if not member.leader:
            action = NextAction("check the members", "deploy/etcd/etcd.sh status")
            message = "a member has no leader (lost quorum), so it serves neither reads nor writes"
            checks.append(CheckResult(name, "error", message, "etcd_no_leader", (action,)))
    if len({member.cluster_id for member in members.values()}) > 1:
        action = NextAction("list endpoints of one cluster only", "export DEVOPSELLENCE_ETCD_ENDPOINTS=<host:port,…>")
        message = f"the endpoints {', '.join(members)} belong to more than one cluster"
        checks.append(CheckResult("etcd cluster", "error", message, "etcd_other_cluster", (action,)))
    alarms = sorted({alarm for member in members.values() for alarm in member.alarms})
    checks += [CheckResult.from_error("etcd alarm", errors.of_alarm(alarm)) for alarm in alarms]
    if "NOSPACE" not in alarms:
        checks += _sizes(seen)
    return checks


def _told_apart(members: Mapping[str, Member], gateways: Collection[str]) -> dict[str, Member]:
    """Return what is known of etcd by the name of a check; of the answers through gateways the worst."""
    seen = {f"etcd {endpoint}": member for endpoint, member in members.items() if endpoint not in gateways}
    behind = [member for endpoint, member in members.items() if endpoint in gateways]
    if behind:
        seen[_BEHIND] = max(behind, key=lambda member: (not member.leader, member.size))
    return seen


def _overview(members: Mapping[str, Member], gateways: Collection[str]) -> CheckResult:
    versions = ", ".join(sorted({member.version for member in members.values()}))
    # A gateway asks any one member, so its answer does not say which.
    told = {endpoint: member for endpoint, member in members.items() if endpoint not in gateways}
    leader = next((endpoint for endpoint, member in told.items() if member.id and member.id == member.leader), "")
    leads = f"; {leader} is the leader" if leader and len(told) > 1 else ""
    size = max(member.size for member in members.values()) / _MIB
    where = "at" if told else "behind the gateways" if len(members) > 1 else "behind the gateway"
    message = f"{versions} {where} {', '.join(members)}{leads}; {size:.0f} of {_quota(members):.0f} MiB"
    return CheckResult("etcd", "ok", message)


def _unreachable(endpoint: str, error: StoreError, *, is_gateway: bool) -> CheckResult:
    message = errors.of_store(error, where=endpoint).message
    if is_gateway:
        action = NextAction("on that machine", "systemctl status devopsellence-controller")
        message = message.replace(f"etcd at {endpoint}", f"the gateway at {endpoint}", 1)
        return CheckResult(f"gateway {endpoint}", "error", message, "gateway_away", (action,))
    action = NextAction("on that machine", "systemctl status devopsellence-etcd")
    return CheckResult(f"etcd {endpoint}", "error", message, "etcd_member_away", (action,))


def _quota(members: Mapping[str, Member]) -> float:
    """Return the smallest quota in MiB reported by a member, else the default of etcd and ``cluster init``."""
    return min((member.quota for member in members.values() if member.quota), default=QUOTA_BYTES) / _MIB


def _sizes(members: Mapping[str, Member]) -> list[CheckResult]:
    quota, checks = _quota(members), []
    for name, member in members.items():
        size, used = member.size / _MIB, member.used / _MIB
        if size < _FULL * quota:
            continue
        message = (
            f"the database has {size:.0f} of {quota:.0f} MiB ({used:.0f} in use); etcd refuses writes when it is full"
        )
        more = NextAction(
            "or raise ETCD_QUOTA_BACKEND_BYTES, then restart each member", "systemctl restart devopsellence-etcd"
        )
        actions = (more,) if used >= _FULL * quota else (_DEFRAG, more)
        checks.append(CheckResult(name, "warning", message, "etcd_nearly_full", actions))
    return checks
