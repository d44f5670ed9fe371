"""Checks of etcd's members: reachability, leader, alarms, database size, versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from devopsellence.cli import context, errors
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
#: First patch release of each minor version to enforce grants on watches; no such release before 3.5.
_KEEPS_GRANTS: Final = {(3, 5): 33, (3, 6): 14}
_DEFRAG: Final = NextAction("free unused space, on the machine with root's certificate", "deploy/etcd/etcd.sh defrag")


async def etcd_results(etcd: Etcd, settings: Settings) -> list[CheckResult]:
    """Check each endpoint separately.

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
    # Grants do not matter without certificates, or in the local cluster of a single person.
    return member_results(members, grants=settings.cert is not None and not context.is_dev(settings))


def member_results(answers: Mapping[str, Member | StoreError], *, grants: bool) -> list[CheckResult]:
    """Return the results for etcd's members, by endpoint; ``grants``: also check the enforcement of grants.

    Raises:
        StoreError: no member answered.
    """
    members = {endpoint: answer for endpoint, answer in answers.items() if isinstance(answer, Member)}
    if not members:
        raise next(answer for answer in answers.values() if isinstance(answer, StoreError))
    checks = [_overview(members)]
    for endpoint, answer in answers.items():
        if isinstance(answer, StoreError):
            checks.append(_unreachable(endpoint, answer))
        elif not answer.leader:
            action = NextAction("check the members", "deploy/etcd/etcd.sh status")
            message = "this member has no leader (lost quorum), so it serves neither reads nor writes"
            checks.append(CheckResult(f"etcd {endpoint}", "error", message, "etcd_no_leader", (action,)))
    if len({member.cluster_id for member in members.values()}) > 1:
        action = NextAction("list members of one cluster only", "export DEVOPSELLENCE_ETCD_ENDPOINTS=<host:port,…>")
        message = f"the endpoints {', '.join(members)} belong to more than one cluster"
        checks.append(CheckResult("etcd cluster", "error", message, "etcd_other_cluster", (action,)))
    alarms = sorted({alarm for member in members.values() for alarm in member.alarms})
    checks += [CheckResult.from_error("etcd alarm", errors.of_alarm(alarm)) for alarm in alarms]
    if "NOSPACE" not in alarms:
        checks += _sizes(members)
    return [*checks, *(_versions(members) if grants else [])]


def _overview(members: Mapping[str, Member]) -> CheckResult:
    versions = ", ".join(sorted({member.version for member in members.values()}))
    leader = next((endpoint for endpoint, member in members.items() if member.id and member.id == member.leader), "")
    leads = f"; {leader} is the leader" if leader and len(members) > 1 else ""
    size = max(member.size for member in members.values()) / _MIB
    message = f"{versions} at {', '.join(members)}{leads}; {size:.0f} of {_quota(members):.0f} MiB"
    return CheckResult("etcd", "ok", message)


def _unreachable(endpoint: str, error: StoreError) -> CheckResult:
    message = errors.of_store(error, where=endpoint).message
    action = NextAction("on that machine", "systemctl status devopsellence-etcd")
    return CheckResult(f"etcd {endpoint}", "error", message, "etcd_member_away", (action,))


def _quota(members: Mapping[str, Member]) -> float:
    """Return the smallest quota in MiB reported by a member, else the default of etcd and ``cluster init``."""
    return min((member.quota for member in members.values() if member.quota), default=QUOTA_BYTES) / _MIB


def _sizes(members: Mapping[str, Member]) -> list[CheckResult]:
    quota, checks = _quota(members), []
    for endpoint, member in members.items():
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
        checks.append(CheckResult(f"etcd {endpoint}", "warning", message, "etcd_nearly_full", actions))
    return checks


def _versions(members: Mapping[str, Member]) -> list[CheckResult]:
    leaking = sorted({member.version for member in members.values() if not keeps_grants(member.version)})
    if not leaking:
        return []
    message = f"version {', '.join(leaking)} lets a node's certificate read keys it has no access to"
    action = NextAction("upgrade to 3.5.33, 3.6.14 or newer, member by member", "deploy/etcd/etcd.sh status")
    return [CheckResult("etcd version", "warning", message, "etcd_version", (action,))]


def keeps_grants(version: str) -> bool:
    """Return True for a version of etcd that restricts a user to the granted prefixes."""
    parts = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if parts is None:
        return False
    major, minor, patch = (int(part) for part in parts.groups())
    return (major, minor) > max(_KEEPS_GRANTS) or patch >= _KEEPS_GRANTS.get((major, minor), patch + 1)
