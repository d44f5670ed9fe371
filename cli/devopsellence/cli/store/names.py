"""Names in etcd, from keys alone where possible, such as nodes, environments, releases, secrets and hosts.

Keys of another form are left out. Read by shell completion; covered by tests/integration/cli/test_completion.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from devopsellence.cli.store.releases import target_release
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

T = TypeVar("T")


async def nodes(etcd: Etcd) -> list[str]:
    """Return the registered nodes, sorted."""
    return await _parsed(etcd, etcd.keys.nodes_prefix, etcd.keys.parse_node)


async def operators(etcd: Etcd) -> list[str]:
    """Return the operators with access, sorted."""
    return await _parsed(etcd, etcd.keys.all_operator_access_prefix, etcd.keys.parse_operator_access)


async def recipients(etcd: Etcd) -> list[str]:
    """Return the names of the operators' age recipients, sorted."""
    return await _parsed(etcd, etcd.keys.operators_prefix, etcd.keys.parse_operator)


async def environments(etcd: Etcd) -> list[EnvironmentRef]:
    """Return all environments of the cluster, sorted."""
    return await _parsed(etcd, etcd.keys.environments_prefix, etcd.keys.parse_environment)


async def releases(etcd: Etcd, ref: EnvironmentRef) -> list[int]:
    """Return the numbers of the releases of an environment, newest first."""
    found = await _parsed(etcd, etcd.keys.releases_prefix(ref), etcd.keys.parse_release)
    return [number for _, number in reversed(found)]


async def secrets(etcd: Etcd, ref: EnvironmentRef) -> list[tuple[str, str]]:
    """Return service and name of the secrets of an environment, sorted; the registry's service is ``REGISTRY``."""
    found = await _parsed(etcd, etcd.keys.secrets_prefix(ref), etcd.keys.parse_secret)
    return [(service, name) for _, service, name in found]


async def certificate_hosts(etcd: Etcd, ref: EnvironmentRef) -> list[str]:
    """Return the hosts of an environment with a certificate, sorted."""
    return [host for _, host in await _parsed(etcd, etcd.keys.certificates_prefix(ref), etcd.keys.parse_certificate)]


async def services(etcd: Etcd, ref: EnvironmentRef) -> list[str]:
    """Return the services of the running release; an empty list before the first."""
    release = await target_release(etcd, ref)
    return [service.name for service in release.services] if release is not None else []


async def tasks(etcd: Etcd, ref: EnvironmentRef) -> list[str]:
    """Return the tasks of the running release, the release task first; an empty list before the first."""
    release = await target_release(etcd, ref)
    if release is None:
        return []
    first = [release.release_task.name] if release.HasField("release_task") else []
    return [*first, *(task.name for task in release.tasks)]


async def ingress_hosts(etcd: Etcd, ref: EnvironmentRef) -> list[str]:
    """Return the hosts of the running release; an empty list without an ingress."""
    release = await target_release(etcd, ref)
    return list(release.ingress.hosts) if release is not None else []


async def _parsed(etcd: Etcd, prefix: str, parse: Callable[[str], T]) -> list[T]:
    found = []
    for item in (await etcd.list(prefix, keys_only=True)).items:
        try:
            found.append(parse(item.key))
        except ValueError:
            continue
    return found
