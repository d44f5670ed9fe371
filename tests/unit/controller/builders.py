"""Builders of messages, and an in-memory store to plan from and to apply plans to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.clock import Now
from devopsellence.controller.cache.validation import (
    checked_certificate,
    checked_claim,
    checked_environment,
    checked_node,
    checked_secret,
)
from devopsellence.controller.model.actions import EnvironmentPlan, WriteAction, WriteKind
from devopsellence.controller.model.hosts import assigned_hosts, holder
from devopsellence.controller.model.reachability import UnreachableSince
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView, ProgressStopwatch
from devopsellence.controller.plan import plan
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.record import Record, message_of, revision_of

REF = EnvironmentRef("acme", "shop", "production")
KEYS = Keys("/t/")
START = datetime(2025, 1, 1, tzinfo=UTC)
SERVICE_KINDS = {"web": workload_pb2.Service.WEB, "worker": workload_pb2.Service.WORKER}


def moment(seconds: float) -> Now:
    """Return both clocks, ``seconds`` after the start of the tests."""
    return Now(1000.0 + seconds, START.timestamp() + seconds)


def service(
    name: str,
    kind: str = "web",
    image: str = "app:1",
    *,
    app: bool = False,
    after: Sequence[str] = (),
    **secrets: int,
) -> workload_pb2.Service:
    """Return a service. ``after``: names of its dependencies; ``secrets``: versions by name."""
    return workload_pb2.Service(
        name=name,
        kind=SERVICE_KINDS[kind],
        image=workload_pb2.Image(reference=image, pinned=f"sha256:{image}", app=app),
        depends_on=[
            workload_pb2.Dependency(service=one, condition=workload_pb2.Dependency.SERVICE_HEALTHY) for one in after
        ],
        secret_refs=[workload_pb2.SecretRef(name=name, secret=name, version=secrets[name]) for name in secrets],
    )


def app(version: int, name: str = "web", kind: str = "web", **more: Any) -> workload_pb2.Service:
    """A service with the image that was built as the app's ``version``."""
    return service(name, kind, f"app:{version}", app=True, **more)


def migration(**fields: Any) -> workload_pb2.Task:
    return workload_pb2.Task(**{"name": "release", "service": "web", "command": ["migrate"], **fields})


def secret(service: str, name: str, *versions: int, recipients: str = "n1") -> pb.Secret:
    """Return a secret with "ciphertexts" that contain version and recipients."""
    return pb.Secret(
        organization=REF.organization,
        project=REF.project,
        environment=REF.environment,
        service=service,
        name=name,
        versions=[
            pb.SecretVersion(version=version, age=f"{name}/{version} for {recipients}", recipients=[recipients])
            for version in versions
        ],
    )


def node(name: str, *labels: str, uid: str = "", cordoned: bool = False) -> pb.Node:
    return pb.Node(name=name, uid=uid or f"uid-{name}", labels=sorted(labels), cordoned=cordoned)


def release(
    number: int,
    *services: workload_pb2.Service,
    deadline: int = 600,
    task: workload_pb2.Task | None = None,
    registry: pb.Registry | None = None,
    registry_logins: Sequence[pb.RegistryLogin] = (),
    parallel: str = "100%",
    halt: bool = False,
    ingress: workload_pb2.Ingress | None = None,
) -> pb.Release:
    result = pb.Release(
        organization=REF.organization,
        project=REF.project,
        environment=REF.environment,
        number=number,
        services=services,
        revision=f"rev{number}",
        release_task=task,
        registry=registry,
        registry_logins=registry_logins,
        ingress=ingress,
    )
    result.rollout.progress_deadline.FromSeconds(deadline)
    result.rollout.max_parallel = parallel
    result.rollout.on_failure = workload_pb2.RolloutPolicy.HALT if halt else workload_pb2.RolloutPolicy.ROLLBACK
    return result


def service_status(name: str, **fields: Any) -> pb.ServiceStatus:
    return pb.ServiceStatus(
        name=name, **{"phase": pb.ServiceStatus.RUNNING, "health": pb.ServiceStatus.HEALTHY, **fields}
    )


def crashed(name: str, *, code: int = 1, failed: bool = False, reason: str = "ended by itself") -> pb.ServiceStatus:
    result = service_status(name, phase=pb.ServiceStatus.BACKOFF, failed=failed, reason=reason)
    result.last_exit.code = code
    return result


class Store:
    """In-memory records of one environment, with revisions, and a controller driven step by step."""

    def __init__(self) -> None:
        self.records: dict[str, Record[Any]] = {}
        self.revision = 0
        self.stopwatch: ProgressStopwatch | None = None
        self.events: list[pb.Event] = []
        self.seconds = 0.0
        self.unreachable_since = UnreachableSince()
        # Views as kept by the caches, until something about the node changes.
        self.views: dict[str, NodeView] = {}

    def put(self, key: str, message: Message) -> None:
        self.revision += 1
        before = self.records.get(key)
        created = before.create_revision if before is not None else self.revision
        self.records[key] = Record(key, message, None, created, self.revision)

    def garbage(self, key: str) -> None:
        """Store a value that does not parse, as if written with etcdctl."""
        self.revision += 1
        self.records[key] = Record(key, None, MalformedRecord(key, "Thing", "no JSON"), self.revision, self.revision)

    def delete(self, key: str) -> None:
        self.revision += 1
        self.records.pop(key, None)

    def add_node(self, name: str, *labels: str, uid: str = "", cordoned: bool = False, alive: bool = True) -> None:
        self.put(KEYS.node(name), node(name, *labels, uid=uid, cordoned=cordoned))
        if alive:
            self.put(KEYS.heartbeat(name), pb.Heartbeat(node=name, uid=uid or f"uid-{name}"))

    def set_environment(self, *nodes: str, latest: int = 0) -> None:
        self.put(
            KEYS.environment(REF),
            pb.Environment(
                organization=REF.organization,
                project=REF.project,
                environment=REF.environment,
                nodes=sorted(nodes),
                latest_release=latest,
            ),
        )

    def attached(self) -> list[str]:
        environment = self.environment()
        return list(environment.nodes) if environment is not None else []

    def store_secret(self, service: str, name: str, *versions: int, recipients: str = "n1") -> None:
        self.put(KEYS.secret(REF, service, name), secret(service, name, *versions, recipients=recipients))

    def deploy(self, number: int, *services: workload_pb2.Service, **more: Any) -> None:
        """``more`` as for release()."""
        self.put(KEYS.release(REF, number), release(number, *services, **more))
        self.set_environment(*self.attached(), latest=number)

    def environment(self) -> pb.Environment | None:
        """None also if it cannot be read."""
        record = self.records.get(KEYS.environment(REF))
        return message_of(record)

    def assignment(self, name: str) -> pb.Assignment | None:
        record = self.records.get(KEYS.assignment(name, REF))
        return message_of(record)

    def assigned(self, name: str) -> list[str]:
        """The services that ``name`` is to run."""
        assignment = self.assignment(name)
        assert assignment is not None, f"{name} has no assignment"
        return [service.name for service in assignment.services]

    def rollout(self) -> pb.Rollout:
        rollout = self.records[KEYS.rollout(REF)].message
        assert isinstance(rollout, pb.Rollout)
        return rollout

    def phase(self) -> str:
        return pb.Rollout.Phase.Name(self.rollout().phase)

    def progress(self, name: str) -> pb.NodeProgress:
        return next(node for node in self.rollout().nodes if node.node == name)

    def task(self) -> pb.TaskStatus:
        """As it is recorded."""
        return self.rollout().task

    def report_task(self, name: str, phase: str, *services: pb.ServiceStatus, **fields: Any) -> None:
        """``name``'s agent reports how the task of its assignment fares; ``fields`` are the task status's."""
        assignment = self.assignment(name)
        assert assignment is not None
        code = fields.pop("code", None)
        lines = fields.pop("lines", ())
        task = pb.TaskStatus(
            name=assignment.task.name, service=assignment.task.service, release=assignment.release, **fields
        )
        task.phase = pb.TaskStatus.Phase.Value(phase)
        if code is not None:
            task.exit.code = code
            task.exit.log_lines.extend(lines)
        self.report(name, *services, task=task)

    def report(self, name: str, *services: pb.ServiceStatus, phase: str = "", **fields: Any) -> None:
        """``name``'s agent reports about the assignment it has; by default that all of it has settled."""
        assignment = self.assignment(name)
        assert assignment is not None
        settled = [service_status(service.name) for service in assignment.services]
        default = "REMOVED" if assignment.removed else "CONVERGING" if services else "SETTLED"
        status = pb.AssignmentStatus(
            node=name,
            node_uid=assignment.node_uid,
            generation=assignment.generation,
            release=assignment.release,
            phase=pb.AssignmentStatus.Phase.Value(phase or default),
            services=services or settled,
        )
        for field, value in fields.items():
            if isinstance(value, Message):
                getattr(status, field).CopyFrom(value)
            else:
                setattr(status, field, value)
        self.put(KEYS.status(name, REF), status)

    def snapshot(self) -> EnvironmentSnapshot:
        environment = self.environment()
        names = set(self.attached())
        for key in self.records:
            if key.startswith((KEYS.all_assignments_prefix, KEYS.all_statuses_prefix)):
                names.add(KEYS.parse_assignment(key)[0])
            elif key.startswith(KEYS.all_ingress_prefix):
                names.add(KEYS.parse_ingress(key)[0])
            elif key.startswith(KEYS.hosts_prefix) and holder(self.records[key]) == REF:
                names.add(KEYS.parse_host_claim(key)[0])
        latest = environment.latest_release if environment is not None else 0
        views = [
            NodeView(
                name,
                checked_node(self.records.get(KEYS.node(name)), name),
                self.records.get(KEYS.heartbeat(name)),
                self.records.get(KEYS.assignment(name, REF)),
                self.records.get(KEYS.status(name, REF)),
                self.parts(name),
                self.claims(name),
            )
            for name in sorted(names)
        ]
        newest = self.records.get(KEYS.release(REF, latest)) if latest else None
        record = checked_environment(self.records.get(KEYS.environment(REF)), REF)
        snapshot = EnvironmentSnapshot(
            REF,
            record,
            newest,
            self.records.get(KEYS.rollout(REF)),
            [self._cached(view) for view in views],
            self.stopwatch,
            self._secrets(),
            certificates=self._certificates(),
            served_hosts={view.name: {REF: assigned_hosts(message_of(view.assignment))} for view in views},
        )
        number = snapshot.fallback_number
        fallback = self.records.get(KEYS.release(REF, number)) if number else None
        return replace(
            snapshot, fallback=fallback, unreachable_since=self.unreachable_since.note(snapshot, moment(self.seconds))
        )

    def _cached(self, view: NodeView) -> NodeView:
        if self.views.get(view.name) != view:
            self.views[view.name] = view
        return self.views[view.name]

    def _secrets(self) -> dict[tuple[str, str], Record[pb.Secret]]:
        secrets = {}
        for key, record in self.records.items():
            if key.startswith(KEYS.secrets_prefix(REF)):
                ref, service, name = KEYS.parse_secret(key)
                checked = checked_secret(record, ref, service, name)
                if checked is not None:
                    secrets[service, name] = checked
        return secrets

    def _certificates(self) -> dict[str, Record[pb.Certificate]]:
        certificates = {}
        for key, record in self.records.items():
            if key.startswith(KEYS.certificates_prefix(REF)):
                ref, host = KEYS.parse_certificate(key)
                checked = checked_certificate(record, ref, host)
                if checked is not None:
                    certificates[host] = checked
        return certificates

    def parts(self, name: str) -> dict[str, Record[pb.NodeIngress]]:
        """Return the ingress parts of ``name`` by name of the part."""
        prefix = KEYS.ingress_prefix(name)
        return {KEYS.parse_ingress(key)[2]: self.records[key] for key in self.records if key.startswith(prefix)}

    def claims(self, name: str) -> dict[str, Record[pb.HostClaim]]:
        """Return the claims of hosts on ``name``, of any environment."""
        claims = {}
        for key, record in self.records.items():
            if key.startswith(f"{KEYS.hosts_prefix}{name}/"):
                node, host = KEYS.parse_host_claim(key)
                checked = checked_claim(record, node, host)
                if checked is not None:
                    claims[host] = checked
        return claims

    def plan(self) -> EnvironmentPlan:
        """Return the plan for now; cached results of earlier plans must make no difference."""
        snapshot, now = self.snapshot(), moment(self.seconds)
        result = plan(snapshot, now, KEYS)
        anew = replace(snapshot, nodes=[replace(view, notes={}) for view in snapshot.nodes])
        assert plan(anew, now, KEYS) == result
        return result

    def step(self, *, only: int | None = None) -> EnvironmentPlan:
        """Plan and carry out; ``only``: number of actions until the controller crashes."""
        result = self.plan()
        for action in result.actions[:only]:
            self.carry_out(action)
        self.stopwatch = result.stopwatch
        if result.actions[:only]:
            # With the first of the transactions.
            self.events += result.events
        return result

    def converge(self) -> None:
        """Step until there is nothing left to do."""
        for _ in range(10):
            if not self.step().actions:
                return
        raise AssertionError(f"does not come to rest: {self.plan().actions}")

    def carry_out(self, action: WriteAction) -> None:
        """As one transaction, whose conditions hold."""
        for key, revision in [
            *((change.key, change.replaces) for change in action.changes),
            *((basis.key, basis.mod_revision) for basis in action.rests_on),
        ]:
            record = self.records.get(key)
            assert revision_of(record) == revision, f"{action} rests on another {key}"
        for change in action.changes:
            if change.message is None:
                self.delete(change.key)
            else:
                self.put(change.key, change.message)


def kinds(result: EnvironmentPlan) -> list[WriteKind]:
    return [action.kind for action in result.actions]


def writes(result: EnvironmentPlan) -> list[WriteAction]:
    """The actions that change what a node should run."""
    return [action for action in result.actions if action.node]
