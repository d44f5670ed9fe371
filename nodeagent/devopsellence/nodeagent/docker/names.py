"""Names and labels of containers, networks and volumes. Pure.

Names are deterministic, so an agent finds everything created before a crash. An empty label counts as absent: labels
that come with an image are overridden like that. A name contains a short hash of the node
uid and the full environment path, because the readable part alone is not unique: names lose their upper case, and
``a-b``/``c`` reads like ``a``/``b-c``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

from devopsellence.store.keys import EnvironmentRef

#: All labels below begin with this.
LABEL_PREFIX: Final = "devopsellence."
LABEL_MANAGED: Final = "devopsellence.managed"
LABEL_ENVIRONMENT: Final = "devopsellence.environment"
LABEL_SERVICE: Final = "devopsellence.service"
LABEL_SERVICE_KIND: Final = "devopsellence.service_kind"
LABEL_HASH: Final = "devopsellence.hash"
LABEL_REVISION: Final = "devopsellence.revision"
LABEL_RELEASE: Final = "devopsellence.release"
LABEL_NODE: Final = "devopsellence.node"
LABEL_NODE_UID: Final = "devopsellence.node_uid"
#: Services started before and stopped after the container's service, separated by commas; absent: none.
LABEL_DEPENDS_ON: Final = "devopsellence.depends_on"
#: Ports of the service, as "http=3000,metrics=9090": after a change, an older container still listens on the old ports.
LABEL_PORTS: Final = "devopsellence.ports"
#: Name of the release task; absent on a service's container.
LABEL_TASK: Final = "devopsellence.task"
#: Variables of the container whose values are secrets, separated by commas.
LABEL_SECRETS: Final = "devopsellence.secrets"
#: On the container of a one-off task: managed by the operator's call, not by the plan.
LABEL_ONE_OFF: Final = "devopsellence.one_off"
#: On the node's Envoy container, with the hash of its configuration: belongs to the router, not to an environment.
LABEL_ROUTER: Final = "devopsellence.router"
#: Random, written to the agent's disk before the container is created (``docker.ownership``).
LABEL_NONCE: Final = "devopsellence.nonce"
#: Paths of the volumes that the container has because its image declares them (``VOLUME``), as a JSON list.
LABEL_IMAGE_VOLUMES: Final = "devopsellence.image_volumes"
#: Generation of the agent's defaults (``plan.security``) with which the container was created; absent: 0.
LABEL_DEFAULTS: Final = "devopsellence.defaults"
#: Names tried for one container, if others have taken the first ones.
_ALTERNATIVES: Final = 3
_ONE_OFF_END: Final = re.compile(r"[0-9a-f]{10}(-\d)?\Z", re.ASCII)


def container_name(node_uid: str, ref: EnvironmentRef, service: str, spec_hash: str) -> str:
    """Return ``<project>-<environment>-<service>-<10 hex digits>``, unique per spec: old and new container coexist, and
    the same spec is never created twice."""
    short = _digest(node_uid, str(ref), service, spec_hash)[:10]
    return f"{ref.project}-{ref.environment}-{service}-{short}".lower()


def task_name(node_uid: str, ref: EnvironmentRef, task: str, release: int) -> str:
    """Return ``<project>-<environment>-task-<task>-<release>-<6 hex digits>``, unique per release."""
    short = _digest(node_uid, str(ref), "task", task, str(release))[:6]
    return f"{ref.project}-{ref.environment}-task-{task}-{release}-{short}".lower()


def one_off_prefix(ref: EnvironmentRef, task: str) -> str:
    """Return ``<project>-<environment>-run-<task>-``; 10 random hex digits follow."""
    return f"{ref.project}-{ref.environment}-run-{task}-".lower()


def envoy_name(node_uid: str, spec_hash: str) -> str:
    """Return ``devopsellence-envoy-<6 hex digits>-<8 hex digits>``, of node uid and spec hash."""
    return f"devopsellence-envoy-{hashlib.sha256(node_uid.encode()).hexdigest()[:6]}-{spec_hash[:8]}"


def alternatives(name: str) -> tuple[str, ...]:
    """Return a container's deterministic names in the order of choice: a name can be taken by somebody else."""
    return (name, *(f"{name}-{number}" for number in range(2, _ALTERNATIVES + 1)))


def parse_image_volumes(label: str) -> tuple[str, ...]:
    """Parse the value of :data:`LABEL_IMAGE_VOLUMES`; empty if malformed."""
    try:
        paths = json.loads(label) if label else []
    except ValueError:
        return ()
    return tuple(str(path) for path in paths) if isinstance(paths, list) else ()


def own_labels(labels: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the labels of this project among all labels of a container or an image."""
    return {label: value for label, value in (labels or {}).items() if label.startswith(LABEL_PREFIX)}


def has_own_name(name: str, labels: Mapping[str, str]) -> bool:
    """Return True if a container has one of the names that an agent gives to a container with these labels."""
    uid, release = labels.get(LABEL_NODE_UID, ""), labels.get(LABEL_RELEASE, "")
    if router := labels.get(LABEL_ROUTER):
        return name in alternatives(envoy_name(uid, router))
    try:
        ref = EnvironmentRef.parse(labels.get(LABEL_ENVIRONMENT, ""))
    except ValueError:
        return False
    task = labels.get(LABEL_TASK, "")
    if labels.get(LABEL_ONE_OFF):
        prefix = one_off_prefix(ref, task)
        return name.startswith(prefix) and _ONE_OFF_END.match(name, len(prefix)) is not None
    if task:
        return release.isascii() and release.isdigit() and name in alternatives(task_name(uid, ref, task, int(release)))
    return name in alternatives(container_name(uid, ref, labels.get(LABEL_SERVICE, ""), labels.get(LABEL_HASH, "")))


def network_name(node_uid: str, ref: EnvironmentRef) -> str:
    """Return ``<project>-<environment>-<6 hex digits>``."""
    return f"{ref.project}-{ref.environment}-{_digest(node_uid, str(ref))[:6]}".lower()


def volume_name(node_uid: str, ref: EnvironmentRef, source: str) -> str:
    """Return ``<project>-<environment>-<source>-<6 hex digits>``, the same for every release, so that data stays."""
    return f"{ref.project}-{ref.environment}-{source}-{_digest(node_uid, str(ref))[:6]}".lower()


def ports_label(ports: Mapping[str, int]) -> str:
    """Return the value of :data:`LABEL_PORTS`."""
    return ",".join(f"{name}={ports[name]}" for name in sorted(ports))


def parse_ports(label: str) -> Mapping[str, int]:
    """Parse the value of :data:`LABEL_PORTS`; malformed entries are skipped."""
    pairs = (pair.rpartition("=") for pair in label.split(","))
    return {name: int(port) for name, _, port in pairs if name and port.isascii() and port.isdigit()}


def environment_labels(node: str, node_uid: str, ref: EnvironmentRef) -> Mapping[str, str]:
    """Return the labels common to all networks, volumes and containers of an environment."""
    return {
        LABEL_MANAGED: "true",
        LABEL_ENVIRONMENT: str(ref),
        LABEL_NODE: node,
        LABEL_NODE_UID: node_uid,
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
