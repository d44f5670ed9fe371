"""``deploy --dry-run``: print the plan; nothing is built, pulled or written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from devopsellence.api.v1.stored_pb2 import Node, Release
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.deploy import ingress as deploy_ingress
from devopsellence.cli.deploy import replicas, size
from devopsellence.cli.deploy.deploy import OPERATION, DeployRun, run_checks, unpinned_release
from devopsellence.cli.deploy.image_volumes import add_image_volumes
from devopsellence.cli.deploy.plan import ServiceChange, headline, nodes_at_a_time, plan, rollout_order
from devopsellence.cli.images.pin import local_pin
from devopsellence.cli.output import Output
from devopsellence.cli.secrets import pin_versions
from devopsellence.cli.store import releases
from devopsellence.cli.util.text import columns
from devopsellence.placement import Placement, ReplicaPlacement, may_run, task_nodes
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


async def preview(etcd: Etcd, run: DeployRun) -> None:
    """Print the plan of a deploy."""
    target = await run_checks(etcd, run)
    draft = unpinned_release(run)
    # Reports a missing secret, or too large a release, as a deploy does.
    stored = await pin_versions(etcd, run.ref, draft)
    await size.check(etcd, run.ref, draft, target.nodes, stored)
    services = [await _presumed(run, service) for service in draft.services]
    for sentence in await add_image_volumes(run.docker, services, run.config.path.name):
        run.output.warning(sentence)
    absent = sorted({s.image.reference for s in services if s.image.reference and not s.image.pinned})
    planned = await make_plan(etcd, run.ref, services, target.nodes, run.output)
    lines = [headline(str(run.ref), target.newest, planned.steps, planned.nodes)]
    lines += (
        [f"node {target.attached_now} would be attached, because no node is attached"] if target.attached_now else []
    )
    steps_text = rollout_order(draft.rollout, target.nodes)
    lines += [f"steps: {steps_text}"] if steps_text else []
    app = _app_plan(run)
    lines += [f"app image: {app}"] if app else []
    task = _task_plan(draft, target.nodes, planned)
    lines += [f"release task: {task}"] if task else []
    before = await releases.target_release(etcd, run.ref)
    routes = before.ingress if before is not None and before.HasField("ingress") else None
    ingress = run.resolved.ingress
    serving = (
        deploy_ingress.serving_nodes(ingress, services, target.nodes, planned.current) if ingress is not None else []
    )
    lines += deploy_ingress.change_lines(routes, ingress, serving)
    lines += [f"image {reference} is not on this Docker Engine and would be pulled" for reference in absent]
    lines += [*planned.where_text(), "", plan_table(planned.steps)]
    run.output.result(
        OPERATION,
        "\n".join(lines),
        dry_run=True,
        environment=str(run.ref),
        release=target.newest + 1,
        nodes_at_a_time=nodes_at_a_time(draft.rollout, target.nodes),
        app_image=app,
        release_task=task,
        images_to_pull=absent,
        attached=target.attached_now,
        plan=plan_document(planned.steps),
        replicas=planned.where_document(),
        ingress=deploy_ingress.change_document(routes, ingress, serving),
    )


@dataclass(frozen=True)
class DeployPlan:
    """Changes on the nodes with readable assignments, and the placement of services with replicas."""

    nodes: list[Node]
    steps: list[ServiceChange]
    placement: Placement
    current: replicas.CurrentCopies

    @property
    def replica_placements(self) -> list[ReplicaPlacement]:
        """Placement of each service with replicas."""
        return list(self.placement.replica_placements.values())

    def where_text(self) -> list[str]:
        """Return a line per service with replicas: its nodes, and why other nodes are refused."""
        return [f"replicas of {spread.service.name}: {_where(spread)}" for spread in self.replica_placements]

    def where_document(self) -> list[dict[str, Any]]:
        """Return the JSON form."""
        return [
            {
                "service": spread.service.name,
                "replicas": spread.service.replicas,
                "nodes": list(spread.nodes),
                "refused": dict(spread.refused),
            }
            for spread in self.replica_placements
        ]


async def make_plan(
    etcd: Etcd, ref: EnvironmentRef, services: Sequence[Service], nodes: Sequence[Node], output: Output
) -> DeployPlan:
    """Return the changes from the stored assignments to ``services``; unreadable assignments are warned about."""
    current = await replicas.read_copies(etcd, ref, services, nodes, assignments=True)
    for problem in current.unreadable.values():
        output.warning(f"{problem.key} is {problem.reason}; the node is left out of the plan")
    known = [node for node in nodes if node.name not in current.unreadable]
    return DeployPlan(known, plan(services, nodes, current), current.place(services, nodes), current)


def _where(spread: ReplicaPlacement) -> str:
    count = f"{len(spread.nodes)} of {spread.service.replicas}"
    refused = "; ".join(f"{name}: {clause}" for name, clause in sorted(spread.refused.items()))
    return f"{', '.join(spread.nodes) or 'no node'} ({count}{f'; not on {refused}' if refused else ''})"


def plan_table(steps: Iterable[ServiceChange]) -> str:
    """Return the changes as a table; a question mark means uncertain."""
    rows = [[step.node, step.service, step.kind.value + ("" if step.certain else "?"), step.reason] for step in steps]
    return columns(("NODE", "SERVICE", "ACTION", "WHY"), rows)


def plan_document(steps: Iterable[ServiceChange]) -> list[dict[str, str | bool]]:
    """Return the JSON form of the changes."""
    return [_document(step) for step in steps]


async def _presumed(run: DeployRun, service: Service) -> Service:
    """Return a copy of ``service`` with the image pinned, if the image is known without building or pulling."""
    copy = Service()
    copy.CopyFrom(service)
    if copy.image.app:
        copy.image.reference = run.image or ""
    if copy.image.reference:
        copy.image.pinned = await local_pin(run.docker, copy.image.reference)
    return copy


def _document(step: ServiceChange) -> dict[str, str | bool]:
    return {
        "node": step.node,
        "service": step.service,
        "action": step.kind.value,
        "reason": step.reason,
        "certain": step.certain,
    }


def _app_plan(run: DeployRun) -> str:
    if not any(service.image.app for service in run.resolved.services):
        return ""
    return run.image or f"would be built from {run.config.build.context}"


def _task_plan(draft: Release, nodes: Sequence[Node], planned: DeployPlan) -> str:
    """Return a sentence about the release task; "" without a release task."""
    if not draft.HasField("release_task"):
        return ""
    task, current = draft.release_task, planned.current
    service = next(each for each in draft.services if each.name == task.service)
    able = [node for node in nodes if may_run(service, node)]
    best = task_nodes(service, draft.services, able, planned.placement, current.held, current.unreachable)
    words = " ".join([*task.command, *task.args])
    return f"{words!r} runs once, as {task.service}, on {best[0]}, before any container is replaced"
