"""Names and labels of what the agent makes on the engine. Pure.

Names are deterministic, so that an agent that was killed in the middle finds what it had made. They carry a short hash
over the node's uid and the full path of the environment, because the readable part alone is not unique: names keep
their case in the configuration and lose it here, and ``a-b``/``c`` reads like ``a``/``b-c``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from devopsellence.store.keys import EnvironmentRef

LABEL_MANAGED: Final = "devopsellence.managed"
LABEL_ENVIRONMENT: Final = "devopsellence.environment"
LABEL_SERVICE: Final = "devopsellence.service"
LABEL_SERVICE_KIND: Final = "devopsellence.service_kind"
LABEL_HASH: Final = "devopsellence.hash"
LABEL_REVISION: Final = "devopsellence.revision"
LABEL_RELEASE: Final = "devopsellence.release"
LABEL_NODE: Final = "devopsellence.node"
LABEL_NODE_UID: Final = "devopsellence.node_uid"
#: The services that its own is started after and stopped before, separated by commas; absent: none.
LABEL_DEPENDS_ON: Final = "devopsellence.depends_on"
#: The ports of its service, as "http=3000,metrics=9090": an older container is reached on its own.
LABEL_PORTS: Final = "devopsellence.ports"
#: The name of the task that a container was made for; a service's container has none.
LABEL_TASK: Final = "devopsellence.task"
#: On the container of a task that an operator runs by hand: it belongs to the one who runs it, not to the plan.
LABEL_ONE_OFF: Final = "devopsellence.one_off"
#: On the node's Envoy, with the hash of what it was made of: it belongs to the router, and to no environment.
LABEL_ROUTER: Final = "devopsellence.router"


def container_name(node_uid: str, env: EnvironmentRef, service: str, spec_hash: str) -> str:
    """``<project>-<environment>-<service>-<10 hex digits>``: one name for each spec of a service, so that the old and
    the new container stand side by side and the same spec is never made twice."""
    short = _digest(node_uid, str(env), service, spec_hash)[:10]
    return f"{env.project}-{env.environment}-{service}-{short}".lower()


def task_name(node_uid: str, env: EnvironmentRef, task: str, release: int) -> str:
    """``<project>-<environment>-task-<task>-<release>-<6 hex digits>``: one for the one run of a release's task."""
    short = _digest(node_uid, str(env), "task", task, str(release))[:6]
    return f"{env.project}-{env.environment}-task-{task}-{release}-{short}".lower()


def network_name(node_uid: str, env: EnvironmentRef) -> str:
    """``<project>-<environment>-<6 hex digits>``."""
    return f"{env.project}-{env.environment}-{_digest(node_uid, str(env))[:6]}".lower()


def volume_name(node_uid: str, env: EnvironmentRef, source: str) -> str:
    """``<project>-<environment>-<source>-<6 hex digits>``: the same for every release, so that data stays."""
    return f"{env.project}-{env.environment}-{source}-{_digest(node_uid, str(env))[:6]}".lower()


def ports_label(ports: Mapping[str, int]) -> str:
    """What :data:`LABEL_PORTS` holds."""
    return ",".join(f"{name}={ports[name]}" for name in sorted(ports))


def parse_ports(label: str) -> Mapping[str, int]:
    """The ports by name that :func:`ports_label` made a label of; what is none is left out."""
    pairs = (each.rpartition("=") for each in label.split(","))
    return {name: int(port) for name, _, port in pairs if name and port.isascii() and port.isdigit()}


def environment_labels(node: str, node_uid: str, env: EnvironmentRef) -> Mapping[str, str]:
    """What networks, volumes and containers of an environment have in common."""
    return {
        LABEL_MANAGED: "true",
        LABEL_ENVIRONMENT: str(env),
        LABEL_NODE: node,
        LABEL_NODE_UID: node_uid,
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
