"""Defaults for the security of containers: settings for the engine, and those that a container does not have yet. Pure.

A changed default never replaces a running container (docs/decisions/0029): it counts from the next replacement on, and
the status lists it as pending until then. So defaults are not part of a spec's hash; what a service sets itself is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.model import ContainerSettings

#: Raised with every change of a default below. Containers carry it as a label.
GENERATION: Final = 1
PIDS_LIMIT: Final = 4096
_NET_RAW: Final = "NET_RAW"


def host_config(service: workload_pb2.Service) -> dict[str, Any]:
    """Return the part of ``HostConfig`` (Docker API 1.41) about security."""
    security = service.security
    # Set in both cases: the engine may have a default of its own.
    no_new_privileges = "no-new-privileges=false" if security.new_privileges else "no-new-privileges"
    return {
        "SecurityOpt": [no_new_privileges],
        "PidsLimit": security.pids_limit or PIDS_LIMIT,
        **({} if _NET_RAW in security.cap_add else {"CapDrop": [_NET_RAW]}),
    }


def labels() -> Mapping[str, str]:
    """Return the label that tells which defaults a new container has."""
    return {names.LABEL_DEFAULTS: str(GENERATION)}


def pending_defaults(service: workload_pb2.Service, settings: ContainerSettings | None) -> tuple[str, ...]:
    """Return the defaults that a container of the assigned spec does not have yet, each as setting and value.

    A setting of the service itself is never pending, because it is part of the spec. Nothing is pending for a container
    of this generation: what differs there was dropped by an engine whose kernel does not know it, or changed by hand.
    """
    if settings is None or settings.defaults >= GENERATION:
        return ()
    security = service.security
    pending = {
        "new_privileges: false": settings.new_privileges and not security.HasField("new_privileges"),
        f"pids_limit: {PIDS_LIMIT}": settings.pids != PIDS_LIMIT and not security.pids_limit,
        "cap_add: []": settings.net_raw and _NET_RAW not in security.cap_add,
    }
    return tuple(f"security.{setting}" for setting, is_pending in pending.items() if is_pending)
