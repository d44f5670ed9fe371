"""From an assignment to what a container is made of: the spec hash, the labels, the body of the create call. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent import naming
from devopsellence.store.keys import EnvironmentRef, InvalidName, check_name

#: Part of every hash. Raising it replaces every container everywhere at the next deploy.
HASH_VERSION: Final = 1
DEFAULT_STOP_GRACE_SECONDS: Final = 10.0
_LOGS: Final = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
_IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_PATH: Final = re.compile(r"/[!-~]*\Z")
_DIGEST: Final = re.compile(r"(?P<repository>[^@\s]+)@(?P<digest>sha256:[0-9a-f]{64})\Z")


@dataclass(frozen=True)
class Wanted:
    """One service as assigned. ``obstacle`` says why this agent cannot run it at all; usually empty."""

    service: workload_pb2.Service
    hash: str
    #: The container's name.
    name: str
    obstacle: str = ""

    @property
    def stateful(self) -> bool:
        """Has a volume that two copies must not share: the old container stops before the new one starts."""
        return len(self.service.volumes) > 0

    @property
    def image(self) -> str:
        return self.service.image.pinned

    @property
    def pullable(self) -> bool:
        return pull_reference(self.image) is not None

    @property
    def check(self) -> workload_pb2.HealthCheck | None:
        return self.service.healthcheck if self.service.HasField("healthcheck") else None


@dataclass(frozen=True)
class Desired:
    """What one environment should be on this node: an assignment, with names and hashes worked out once."""

    env: EnvironmentRef
    node: str
    node_uid: str
    generation: int
    release: int
    revision: str
    removed: bool
    network: str
    services: Mapping[str, Wanted]


def desired(assignment: stored_pb2.Assignment, env: EnvironmentRef, node_uid: str) -> Desired:
    """Work out names and hashes of an assignment that :func:`objection` found nothing against."""
    services = {
        service.name: Wanted(
            service,
            spec := spec_hash(service),
            naming.container_name(node_uid, env, service.name, spec),
            obstacle(service),
        )
        for service in assignment.services
    }
    return Desired(
        env=env,
        node=assignment.node,
        node_uid=node_uid,
        generation=assignment.generation,
        release=assignment.release,
        revision=assignment.revision,
        removed=assignment.removed,
        network=naming.network_name(node_uid, env),
        services={} if assignment.removed else services,
    )


def objection(assignment: stored_pb2.Assignment, node: str, env: EnvironmentRef) -> str:
    """Why an assignment that parses cannot be followed as a whole; empty if it can."""
    said = (assignment.organization, assignment.project, assignment.environment)
    if said != (env.organization, env.project, env.environment) or assignment.node != node:
        return f"it says that it is {'/'.join(said)} on node {assignment.node!r}, which is not what its key says"
    seen: set[str] = set()
    for service in assignment.services:
        try:
            check_name("service", service.name)
        except InvalidName as error:
            return str(error)
        if service.name in seen:
            return f"it holds service {service.name} twice"
        seen.add(service.name)
    return ""


def obstacle(service: workload_pb2.Service) -> str:
    """Why this agent cannot run a service, in a sentence; empty if it can."""
    if service.secret_refs:
        names = ", ".join(sorted(ref.secret for ref in service.secret_refs))
        return f"needs secrets ({names}), which this version of the agent does not support"
    pinned = service.image.pinned
    if not (_IMAGE_ID.match(pinned) or _DIGEST.match(pinned)):
        return f"its image is not pinned: {pinned!r} is neither an image id nor <repository>@sha256:<digest>"
    if service.HasField("healthcheck") and not 0 < service.healthcheck.port < 65536:
        return f"its health check names no port ({service.healthcheck.port})"
    if not _PATH.match(service.healthcheck.path or "/"):
        return f"its health check's path {service.healthcheck.path!r} is not one that HTTP can ask for"
    return ""


def pull_reference(pinned: str) -> tuple[str, str] | None:
    """Repository and digest of an image that a registry holds; None for an image id, which only the engine knows."""
    match = _DIGEST.match(pinned)
    return (match["repository"], match["digest"]) if match else None


def spec_hash(service: workload_pb2.Service) -> str:
    """64 hex digits over everything that makes one container different from another.

    Not in it: release and revision (an unchanged service is not restarted by a deploy), the image's reference (a name
    for people), ports, checks and dependencies (the agent's business, not the container's). Fields that are empty are
    left out, so that a field which a later version adds changes no hash where it is not used.
    """
    fields: dict[str, Any] = {
        "image": service.image.pinned,
        "command": list(service.command),
        "args": list(service.args),
        "env": dict(service.env),
        "secret_refs": sorted([ref.name, ref.secret] for ref in service.secret_refs),
        "volumes": sorted([volume.target, volume.source] for volume in service.volumes),
        "cpu_millis": service.resources.cpu_millis,
        "memory_mib": service.resources.memory_mib,
        "stop_grace_ms": round(stop_grace(service) * 1000),
    }
    canonical = {"v": HASH_VERSION, "name": service.name} | {key: value for key, value in fields.items() if value}
    return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def stop_grace(service: workload_pb2.Service) -> float:
    """Seconds between SIGTERM and SIGKILL."""
    if not service.HasField("stop_grace_period"):
        return DEFAULT_STOP_GRACE_SECONDS
    return seconds(service.stop_grace_period)


def seconds(duration: Duration) -> float:
    """A protobuf duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def container_labels(wanted: Wanted, want: Desired) -> dict[str, str]:
    """All labels of a container that is made now."""
    return {
        **naming.environment_labels(want.node, want.node_uid, want.env),
        naming.LABEL_SERVICE: wanted.service.name,
        naming.LABEL_SERVICE_KIND: workload_pb2.Service.Kind.Name(wanted.service.kind).lower(),
        naming.LABEL_HASH: wanted.hash,
        naming.LABEL_REVISION: want.revision,
        naming.LABEL_RELEASE: str(want.release),
    }


def create_body(wanted: Wanted, want: Desired) -> dict[str, Any]:
    """The body of the engine's ``POST /containers/create`` (API 1.41).

    Entrypoint and Cmd are left out when empty, which keeps the image's; an Entrypoint alone drops the image's Cmd, as
    in Compose. Named volumes come into being with the container, with our labels. The engine's own restart policy stays
    "no": the agent restarts (docs/decisions/0003).
    """
    service = wanted.service
    host: dict[str, Any] = {
        "NetworkMode": want.network,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": _LOGS,
    }
    if service.volumes:
        host["Mounts"] = [_mount(volume, want) for volume in service.volumes]
    if service.resources.cpu_millis:
        host["NanoCpus"] = service.resources.cpu_millis * 1_000_000
    if service.resources.memory_mib:
        host["Memory"] = service.resources.memory_mib * 1024 * 1024
    body: dict[str, Any] = {
        "Image": service.image.pinned,
        "Env": [f"{name}={service.env[name]}" for name in sorted(service.env)],
        "Labels": container_labels(wanted, want),
        # Whole seconds on the engine's side; rounded up, so that nobody gets less than was asked for.
        "StopTimeout": math.ceil(stop_grace(service)),
        "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": {want.network: {"Aliases": [service.name]}}},
    }
    if service.command:
        body["Entrypoint"] = list(service.command)
    if service.args:
        body["Cmd"] = list(service.args)
    return body


def _mount(volume: workload_pb2.VolumeMount, want: Desired) -> dict[str, Any]:
    return {
        "Type": "volume",
        "Source": naming.volume_name(want.node_uid, want.env, volume.source),
        "Target": volume.target,
        "VolumeOptions": {"Labels": dict(naming.environment_labels(want.node, want.node_uid, want.env))},
    }
