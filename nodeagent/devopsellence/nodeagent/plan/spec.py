"""Desired state of an environment: from an assignment to specs, hashes, container names and problems."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.plan import dependencies
from devopsellence.nodeagent.plan.probe_spec import Probe, probe_problem, probes_of
from devopsellence.registries import Login, logins
from devopsellence.store.keys import EnvironmentRef, InvalidName, check_name

#: Part of every hash. Raising it replaces every container everywhere at the next deploy.
HASH_VERSION: Final = 1
DEFAULT_STOP_GRACE_SECONDS: Final = 10.0
_IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_VARIABLE: Final = re.compile(r"[^=\x00]+\Z")
_DIGEST: Final = re.compile(r"(?P<repository>[^@\s]+)@(?P<digest>sha256:[0-9a-f]{64})\Z")


@dataclass(frozen=True)
class DesiredService:
    """Assigned service. ``problem``: reason why this agent cannot run the service; usually empty."""

    spec: workload_pb2.Service
    hash: str
    #: The container's name.
    name: str
    problem: str = ""
    #: Without probes, a container is ready once it has run for a moment.
    probes: tuple[Probe, ...] = ()
    #: Nodes with the image, where no registry has it.
    peers: tuple[stored_pb2.Peer, ...] = ()

    @property
    def completes(self) -> bool:
        """Return True if the service is to complete: run until exit code 0, and then not again."""
        return self.spec.completes

    @property
    def stateful(self) -> bool:
        """Return True with volumes: two containers must not share volumes, so the old container stops first."""
        return len(self.spec.volumes) > 0

    @property
    def image(self) -> str:
        return self.spec.image.pinned

    @property
    def can_pull(self) -> bool:
        """Return True if the image can be pulled, from a registry or from other nodes."""
        return pull_reference(self.image) is not None or len(self.peers) > 0

    @property
    def pull_message(self) -> str:
        """Sentence for the status during a pull."""
        return f"fetching image {self.image}" if self.peers else f"pulling {self.image}"


@dataclass(frozen=True)
class Desired:
    """Desired state of one environment on this node: its assignment with names and hashes worked out."""

    ref: EnvironmentRef
    node: str
    node_uid: str
    generation: int
    release: int
    revision: str
    removed: bool
    network: str
    services: Mapping[str, DesiredService]
    #: Release task, to be run once; None for none.
    task: workload_pb2.Task | None = None
    #: Service to run the task in, with the hash and the container name of the task.
    task_service: DesiredService | None = None
    #: Ciphertext by service, secret and version.
    encrypted: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    logins: tuple[Login, ...] = ()
    #: None: no ingress on this node.
    ingress: workload_pb2.Ingress | None = None
    #: Release to return to if this one fails; 0: none known.
    last_settled: int = 0

    @property
    def images(self) -> frozenset[str]:
        """Images of the services and the task, as pinned."""
        return frozenset(
            service.image for service in (*self.services.values(), self.task_service) if service is not None
        )


def resolve_assignment(assignment: stored_pb2.Assignment, ref: EnvironmentRef, node_uid: str) -> Desired:
    """Work out names and hashes of an assignment without an :func:`assignment_problem`."""
    encrypted = {(secret.service, secret.name, secret.version): secret.age for secret in assignment.secrets}
    cycles = dependencies.dependency_cycles(assignment.services)
    services = {
        service.name: DesiredService(
            service,
            digest := spec_hash(service),
            names.container_name(node_uid, ref, service.name, digest),
            service_problem(service) or cycles.get(service.name, "") or secrets_problem(service, encrypted),
            probes_of(service),
            _peers(assignment, service),
        )
        for service in assignment.services
    }
    task = assignment.task if assignment.HasField("task") and not assignment.removed else None
    return Desired(
        ref=ref,
        node=assignment.node,
        node_uid=node_uid,
        generation=assignment.generation,
        release=assignment.release,
        revision=assignment.revision,
        removed=assignment.removed,
        network=names.network_name(node_uid, ref),
        services={} if assignment.removed else services,
        task=task,
        task_service=_task_wanted(assignment, task, ref, node_uid, encrypted) if task is not None else None,
        encrypted=encrypted,
        logins=tuple(logins(assignment)),
        ingress=assignment.ingress if assignment.HasField("ingress") and not assignment.removed else None,
        last_settled=assignment.last_settled,
    )


def _task_wanted(
    assignment: stored_pb2.Assignment,
    task: workload_pb2.Task,
    ref: EnvironmentRef,
    node_uid: str,
    encrypted: Mapping[tuple[str, str, int], str],
) -> DesiredService:
    service = _task_service(assignment)
    return DesiredService(
        service,
        task_hash(task, service),
        names.task_name(node_uid, ref, task.name, assignment.release),
        service_problem(service) or secrets_problem(service, encrypted),
        peers=_peers(assignment, service),
    )


def _peers(assignment: stored_pb2.Assignment, service: workload_pb2.Service) -> tuple[stored_pb2.Peer, ...]:
    return tuple(assignment.peers) if _IMAGE_ID.match(service.image.pinned) else ()


def specs_with_new_peers(before: Desired | None, after: Desired | None) -> list[tuple[str, str]]:
    """Return the specs (service and hash) whose images are available from other nodes than before."""
    if before is None or after is None:
        return []
    return [
        (name, assigned.hash)
        for name, assigned in after.services.items()
        if assigned.peers and (known := before.services.get(name)) is not None and known.peers != assigned.peers
    ]


def _task_service(assignment: stored_pb2.Assignment) -> workload_pb2.Service:
    """Return the service that the task runs in; an unnamed service if it is missing."""
    if assignment.HasField("task_service"):
        return assignment.task_service
    named = (service for service in assignment.services if service.name == assignment.task.service)
    return next(named, workload_pb2.Service())


def assignment_problem(assignment: stored_pb2.Assignment, node: str, ref: EnvironmentRef) -> str:
    """Return the reason why a well-formed assignment cannot be followed; empty if it can."""
    location = (assignment.organization, assignment.project, assignment.environment)
    if location != (ref.organization, ref.project, ref.environment) or assignment.node != node:
        return f"its content is for {'/'.join(location)} on node {assignment.node!r}, which contradicts its key"
    names_seen: set[str] = set()
    for service in assignment.services:
        try:
            check_name("service", service.name)
        except InvalidName as error:
            return str(error)
        if service.name in names_seen:
            return f"it holds service {service.name} twice"
        names_seen.add(service.name)
    return _task_objection(assignment) if assignment.HasField("task") and not assignment.removed else ""


def _task_objection(assignment: stored_pb2.Assignment) -> str:
    task = assignment.task
    try:
        check_name("task", task.name)
    except InvalidName as error:
        return str(error)
    if not task.service or _task_service(assignment).name != task.service:
        return f"it does not hold service {task.service!r}, in which its task {task.name} runs"
    return ""


def service_problem(service: workload_pb2.Service) -> str:
    """Return the reason why this agent cannot run a service; empty if it can."""
    pinned = service.image.pinned
    if not (_IMAGE_ID.match(pinned) or _DIGEST.match(pinned)):
        return f"its image is not pinned: {pinned!r} is neither an image id nor <repository>@sha256:<digest>"
    return probe_problem(service)


def secrets_problem(service: workload_pb2.Service, encrypted: Mapping[tuple[str, str, int], str]) -> str:
    """Return the first secret not sent to this node, or not usable as a variable, as a sentence; empty if none."""
    for ref in service.secret_refs:
        if not _VARIABLE.match(ref.name):
            return f"secret {ref.secret} has the variable name {ref.name!r}, which is not valid"
        if (service.name, ref.secret, ref.version) not in encrypted:
            return f"secret {ref.secret} (version {ref.version}) was not sent to this node; run devopsellence deploy"
    return ""


def pull_reference(pinned: str) -> tuple[str, str] | None:
    """Return repository and digest of an image in a registry; None for an image id, known to engines only."""
    match = _DIGEST.match(pinned)
    return (match["repository"], match["digest"]) if match else None


def spec_hash(service: workload_pb2.Service) -> str:
    """Return 64 hex digits over everything that distinguishes one container from another.

    Not included: release and revision (a deploy does not restart an unchanged service), the image's reference (for
    people), ports, probes and dependencies (used by the agent, not by the container). Empty fields are left out, so
    that a field added by a later version changes no hash where it is not used. Defaults of the agent are not included
    either: a changed one never replaces a container (docs/decisions/0029).
    """
    fields: dict[str, Any] = {
        "image": service.image.pinned,
        "command": list(service.command),
        "args": list(service.args),
        "env": dict(service.env),
        "secret_refs": sorted([ref.name, ref.secret, ref.version] for ref in service.secret_refs),
        "volumes": sorted([volume.target, volume.source] for volume in service.volumes),
        "cpu_millis": service.resources.cpu_millis,
        "memory_mib": service.resources.memory_mib,
        "stop_grace_ms": round(stop_grace(service) * 1000),
        "security": _security_fields(service),
    }
    canonical = {"v": HASH_VERSION, "name": service.name} | {key: value for key, value in fields.items() if value}
    return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _security_fields(service: workload_pb2.Service) -> dict[str, Any]:
    """Return the security settings that the service sets, by the names of the configuration."""
    security = service.security
    fields = {
        "new_privileges": security.new_privileges if security.HasField("new_privileges") else None,
        "pids_limit": security.pids_limit or None,
        "cap_add": sorted(set(security.cap_add)) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def task_hash(task: workload_pb2.Task, service: workload_pb2.Service) -> str:
    """Return 64 hex digits that identify the task of a release among tasks of the same release number and name.

    The hash has to stay the same for a release, also with later agents, because a task is run once. So it covers only
    fields that make a different task, and not the spec of the service.
    """
    fields = [task.name, task.service, list(task.command), list(task.args), dict(task.env), service.image.pinned]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def stop_grace(service: workload_pb2.Service) -> float:
    """Return the seconds between SIGTERM and SIGKILL."""
    if not service.HasField("stop_grace_period"):
        return DEFAULT_STOP_GRACE_SECONDS
    return seconds(service.stop_grace_period)


def seconds(duration: Duration) -> float:
    """Return a protobuf duration in seconds."""
    return duration.seconds + duration.nanos / 1e9
