"""Audit of the bed: nothing lost, doubled or orphaned.

Three views must agree: desired state in etcd (environments, assignments), reports of agents (statuses), and the
containers and networks of the Docker Engines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from devopsellence.api.v1.stored_pb2 import (
    Assignment,
    AssignmentStatus,
    Certificate,
    Environment,
    IngressStatus,
    Node,
    Rollout,
)
from devopsellence.nodeagent.docker.names import LABEL_ENVIRONMENT, LABEL_HASH, LABEL_NODE_UID, LABEL_SERVICE
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef, Keys
from tests.support.cluster.bed import Bed
from tests.support.cluster.roles import Host
from tests.support.until import until

#: An environment on a node.
Place = tuple[str, EnvironmentRef]


@dataclass
class StoredState:
    """Records in etcd; the records of each kind are read at a single revision."""

    nodes: dict[str, Node] = field(default_factory=dict)
    environments: dict[EnvironmentRef, Environment] = field(default_factory=dict)
    rollouts: dict[EnvironmentRef, Rollout] = field(default_factory=dict)
    assignments: dict[Place, Assignment] = field(default_factory=dict)
    statuses: dict[Place, AssignmentStatus] = field(default_factory=dict)
    releases: dict[EnvironmentRef, list[int]] = field(default_factory=dict)
    certificates: dict[tuple[EnvironmentRef, str], Certificate] = field(default_factory=dict)


def stored(bed: Bed) -> StoredState:
    """Read everything."""
    return bed.store(_read)


def nothing_amiss(bed: Bed, *, away: Iterable[str] = (), seconds: float = 30.0) -> None:
    """Return once the whole bed is as it should be; AssertionError with all that is not.

    ``away`` are hosts that cannot be looked at now: nothing is said about them.
    """
    seen: list[str] = []

    def well() -> bool:
        seen[:] = amiss(bed, set(away))
        return not seen

    try:
        until("the bed is as its releases ask", well, seconds=seconds, every=0.5)
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *seen])) from None


def amiss(bed: Bed, away: set[str]) -> list[str]:
    """Everything that is not as it should be, each in a sentence."""
    state = stored(bed)
    hosts = {name: host for name, host in bed.hosts.items() if name not in away}
    return [
        *_in_etcd(state, away),
        *(line for name, host in hosts.items() for line in _on(host, state)),
    ]


@dataclass(frozen=True)
class Step:
    """Something that happened to a node in a rollout: ``assigned`` a release, or reported to have ``settled`` at it."""

    node: str
    what: str
    release: int


def steps(bed: Bed, ref: EnvironmentRef, since: int) -> list[Step]:
    """Return the steps of the nodes of an environment from release ``since`` on, in the order of etcd's revisions."""

    async def work(etcd: Etcd) -> list[Step]:
        keys = etcd.keys
        written = await etcd.get(keys.release(ref, since))
        assert written is not None, f"there is no release {since}"
        last = max(item.mod_revision for item in (await etcd.list(keys.prefix)).items)
        steps: list[Step] = []
        async for batch in etcd.watch(keys.prefix, start_revision=written.create_revision):
            for event in batch.events:
                if event.kv is not None:
                    steps += _step(keys, ref, event.key, event.kv.value)
            if any(event.kv is not None and event.kv.mod_revision >= last for event in batch.events):
                break
        return [step for number, step in enumerate(steps) if step not in steps[:number]]

    return bed.store(work)


def at_once(happened: Iterable[Step], release: int) -> int:
    """Return the largest number of nodes on the way to a release at the same time."""
    under_way: set[str] = set()
    most = 0
    for step in happened:
        if step.release != release:
            under_way.discard(step.node)
        elif step.what == "assigned":
            under_way.add(step.node)
        else:
            under_way.discard(step.node)
        most = max(most, len(under_way))
    return most


def _step(keys: Keys, ref: EnvironmentRef, key: str, value: bytes) -> Iterable[Step]:
    if key.startswith(keys.all_assignments_prefix):
        node, env = _place(key, keys.all_assignments_prefix)
        if env == ref:
            yield Step(node, "assigned", decode(Assignment, key, value).release)
    elif key.startswith(keys.all_statuses_prefix):
        node, env = _place(key, keys.all_statuses_prefix)
        status = decode(AssignmentStatus, key, value)
        if env == ref and status.phase == AssignmentStatus.SETTLED:
            yield Step(node, "settled", status.release)


def _in_etcd(state: StoredState, away: set[str]) -> Iterable[str]:
    for ref, environment in state.environments.items():
        numbers = state.releases.get(ref, [])
        if numbers != list(range(1, environment.latest_release + 1)):
            yield f"{ref}: releases {numbers}, the newest should be {environment.latest_release}"
        rollout = state.rollouts.get(ref)
        if numbers and (rollout is None or rollout.release != environment.latest_release):
            yield f"{ref}: no rollout of release {environment.latest_release}"
    attached = {(node, ref) for ref, environment in state.environments.items() for node in environment.nodes}
    for node, ref in sorted(state.assignments.keys() - attached):
        yield f"{ref} is assigned to {node}, which is not attached"
    for node, ref in sorted(state.statuses.keys() - state.assignments.keys()):
        yield f"a status of {ref} on {node} is left, without an assignment"
    for (node, ref), assignment in sorted(state.assignments.items()):
        if node not in away:
            yield from _reported(f"{ref} on {node}", assignment, state.statuses.get((node, ref)))
            if assignment.node_uid != state.nodes[node].uid:
                yield f"{ref} on {node}: the assignment is for another machine"


def _reported(subject: str, assignment: Assignment, status: AssignmentStatus | None) -> Iterable[str]:
    if status is None:
        yield f"{subject}: no status"
    elif status.generation != assignment.generation or status.node_uid != assignment.node_uid:
        yield f"{subject}: the status is about generation {status.generation}, assigned is {assignment.generation}"
    elif status.phase != AssignmentStatus.SETTLED:
        yield f"{subject}: {AssignmentStatus.Phase.Name(status.phase)} {status.reason}"
    elif assignment.HasField("ingress") and status.ingress.phase != IngressStatus.SERVING:
        yield f"{subject}: its ingress is {IngressStatus.Phase.Name(status.ingress.phase)} {status.ingress.reason}"


def _on(host: Host, state: StoredState) -> Iterable[str]:
    assigned = {ref: assignment for (node, ref), assignment in state.assignments.items() if node == host.name}
    containers = host.containers()
    running: Counter[tuple[str, str]] = Counter()
    for container in containers:
        labels: Mapping[str, str] = container["Config"]["Labels"]
        running[labels[LABEL_ENVIRONMENT], labels[LABEL_SERVICE]] += 1
        subject = f"{labels[LABEL_ENVIRONMENT]} {labels[LABEL_SERVICE]} on {host.name}"
        if labels[LABEL_NODE_UID] != state.nodes[host.name].uid:
            yield f"{subject}: a container of a machine that was here before"
        if not container["State"]["Running"]:
            yield f"{subject}: a container that has ended ({container['State']['Status']})"
        status = state.statuses.get((host.name, EnvironmentRef.parse(labels[LABEL_ENVIRONMENT])))
        hashes = {service.name: service.hash for service in status.services} if status else {}
        if labels[LABEL_HASH] != hashes.get(labels[LABEL_SERVICE]):
            yield f"{subject}: a container of another spec than the status names"
    wanted = Counter(
        {(str(ref), service.name): 1 for ref, assignment in assigned.items() for service in assignment.services}
    )
    for (env, service), count in sorted((wanted - running).items()):
        yield f"{env} {service} on {host.name}: {count} lost"
    for (env, service), count in sorted((running - wanted).items()):
        yield f"{env} {service} on {host.name}: {count} too many"
    routers = [router["State"]["Running"] for router in host.routers()]
    needed = any(assignment.HasField("ingress") for assignment in assigned.values())
    if routers != [True] * needed:
        yield f"{host.name}: routers run {routers}, there should be {'one' if needed else 'none'}"
    networks = host.docker("network", "ls", "--filter", f"label={LABEL_ENVIRONMENT}", "--quiet").split()
    environments = {ref for ref, assignment in assigned.items() if assignment.services}
    if len(networks) != len(environments):
        yield f"{host.name}: {len(networks)} networks for {len(environments)} environments"


async def _read(etcd: Etcd) -> StoredState:
    keys, state = etcd.keys, StoredState()
    for item in (await etcd.list(keys.environments_prefix)).items:
        environment = decode(Environment, item.key, item.value)
        state.environments[EnvironmentRef.parse(item.key.removeprefix(keys.environments_prefix))] = environment
    for item in (await etcd.list(keys.rollouts_prefix)).items:
        ref = EnvironmentRef.parse(item.key.removeprefix(keys.rollouts_prefix))
        state.rollouts[ref] = decode(Rollout, item.key, item.value)
    for item in (await etcd.list(keys.all_releases_prefix)).items:
        path, _, number = item.key.removeprefix(keys.all_releases_prefix).rpartition("/")
        state.releases.setdefault(EnvironmentRef.parse(path), []).append(int(number))
    for item in (await etcd.list(keys.nodes_prefix)).items:
        node = decode(Node, item.key, item.value)
        state.nodes[node.name] = node
    for item in (await etcd.list(keys.all_assignments_prefix)).items:
        state.assignments[_place(item.key, keys.all_assignments_prefix)] = decode(Assignment, item.key, item.value)
    for item in (await etcd.list(keys.all_statuses_prefix)).items:
        state.statuses[_place(item.key, keys.all_statuses_prefix)] = decode(AssignmentStatus, item.key, item.value)
    for item in (await etcd.list(keys.all_certificates_prefix)).items:
        state.certificates[keys.parse_certificate(item.key)] = decode(Certificate, item.key, item.value)
    return state


def _place(key: str, prefix: str) -> Place:
    node, _, path = key.removeprefix(prefix).partition("/")
    return node, EnvironmentRef.parse(path)
