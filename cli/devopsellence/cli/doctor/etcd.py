"""What etcd's members say of themselves: who answers, who leads, alarms, size, versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from devopsellence.cli import context, errors
from devopsellence.cli.cluster.programs import QUOTA_BYTES
from devopsellence.cli.output import CheckResult, NextAction
from devopsellence.cli.store.reader import together
from devopsellence.store.errors import StoreError
from devopsellence.store.types import Member

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

_SECONDS: Final = 2.0
#: From this share of its quota on, etcd's file is worth a warning.
_FULL: Final = 0.8
_MIB: Final = 1024**2
#: By minor version, the first release that keeps a user to what is granted; none was made before 3.5.
_KEEPS_GRANTS: Final = {(3, 5): 33, (3, 6): 14}
_FREE: Final = NextAction("give unused space back, where root's certificate is", "deploy/etcd/etcd.sh defrag")


async def etcd_results(etcd: Etcd, settings: Settings) -> list[CheckResult]:
    """Each endpoint by itself. StoreError if none of them answers."""
    from devopsellence.store.etcd import Etcd as Connection

    async def ask(endpoint: str) -> Member | StoreError:
        try:
            async with Connection(replace(settings, endpoints=(endpoint,)), timeout=_SECONDS) as one:
                return await one.member()
        except StoreError as error:
            return error

    if len(settings.endpoints) == 1:
        found: dict[str, Member | StoreError] = {settings.endpoints[0]: await etcd.member()}
    else:
        asked = await together(ask(endpoint) for endpoint in settings.endpoints)
        found = dict(zip(settings.endpoints, asked, strict=True))
    # Where nobody has a certificate, or all is one person's, there are no grants to be kept.
    return member_results(found, grants=settings.cert is not None and not context.is_dev(settings))


def member_results(found: Mapping[str, Member | StoreError], *, grants: bool) -> list[CheckResult]:
    """What to say of the members that answered, and of those that did not, by endpoint. ``grants``: users matter.

    Raises:
        StoreError: none of them answered.
    """
    there = {endpoint: each for endpoint, each in found.items() if isinstance(each, Member)}
    if not there:
        raise next(each for each in found.values() if isinstance(each, StoreError))
    checks = [_overview(there)]
    for endpoint, each in found.items():
        if isinstance(each, StoreError):
            checks.append(_away(endpoint, each))
        elif not each.leader:
            action = NextAction("see who answers", "deploy/etcd/etcd.sh status")
            message = "this member has lost the others: nothing can be written or read through it"
            checks.append(CheckResult(f"etcd {endpoint}", "error", message, "etcd_no_leader", (action,)))
    if len({each.cluster_id for each in there.values()}) > 1:
        action = NextAction("name one cluster's members alone", "export DEVOPSELLENCE_ETCD_ENDPOINTS=<host:port,…>")
        message = f"the endpoints {', '.join(there)} belong to more than one cluster"
        checks.append(CheckResult("etcd cluster", "error", message, "etcd_other_cluster", (action,)))
    alarms = sorted({alarm for each in there.values() for alarm in each.alarms})
    checks += [CheckResult.from_error("etcd alarm", errors.of_alarm(alarm)) for alarm in alarms]
    if "NOSPACE" not in alarms:
        checks += _sizes(there)
    return [*checks, *(_versions(there) if grants else [])]


def _overview(there: Mapping[str, Member]) -> CheckResult:
    versions = ", ".join(sorted({each.version for each in there.values()}))
    leader = next((endpoint for endpoint, each in there.items() if each.id and each.id == each.leader), "")
    leads = f"; {leader} leads" if leader and len(there) > 1 else ""
    size = max(each.size for each in there.values()) / _MIB
    return CheckResult("etcd", "ok", f"{versions} at {', '.join(there)}{leads}; {size:.0f} of {_quota(there):.0f} MiB")


def _away(endpoint: str, error: StoreError) -> CheckResult:
    told = errors.of_store(error, where=endpoint)
    action = NextAction("on that machine", "systemctl status devopsellence-etcd")
    return CheckResult(f"etcd {endpoint}", "error", told.message, "etcd_member_away", (action,))


def _quota(there: Mapping[str, Member]) -> float:
    """In MiB: the smallest that one tells of, else what ``cluster init`` sets, which is etcd's default."""
    return min((each.quota for each in there.values() if each.quota), default=QUOTA_BYTES) / _MIB


def _sizes(there: Mapping[str, Member]) -> list[CheckResult]:
    quota, checks = _quota(there), []
    for endpoint, each in there.items():
        size, used = each.size / _MIB, each.used / _MIB
        if size < _FULL * quota:
            continue
        message = (
            f"its file has {size:.0f} of {quota:.0f} MiB ({used:.0f} in use), and etcd refuses writes when it is full"
        )
        more = NextAction("or raise ETCD_QUOTA_BACKEND_BYTES, then in turn", "systemctl restart devopsellence-etcd")
        actions = (more,) if used >= _FULL * quota else (_FREE, more)
        checks.append(CheckResult(f"etcd {endpoint}", "warning", message, "etcd_nearly_full", actions))
    return checks


def _versions(there: Mapping[str, Member]) -> list[CheckResult]:
    leaking = sorted({each.version for each in there.values() if not keeps_grants(each.version)})
    if not leaking:
        return []
    message = f"version {', '.join(leaking)} lets a node's certificate read beyond what is granted to it"
    action = NextAction("run 3.5.33 or 3.6.14 or newer, one member after the other", "deploy/etcd/etcd.sh status")
    return [CheckResult("etcd version", "warning", message, "etcd_version", (action,))]


def keeps_grants(version: str) -> bool:
    """Whether etcd of this version keeps a user to the prefixes that are granted to it."""
    parts = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if parts is None:
        return False
    major, minor, patch = (int(part) for part in parts.groups())
    return (major, minor) > max(_KEEPS_GRANTS) or patch >= _KEEPS_GRANTS.get((major, minor), patch + 1)
