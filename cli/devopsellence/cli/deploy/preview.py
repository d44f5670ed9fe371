"""``deploy --dry-run``: the plan, with nothing built, pulled or written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from devopsellence.api.v1.stored_pb2 import Assignment, Node, Release
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.deploy import ingress as routed
from devopsellence.cli.deploy import replicas
from devopsellence.cli.deploy.deploy import OPERATION, DeployRun, run_checks, unpinned_release
from devopsellence.cli.deploy.plan import ServiceChange, headline, nodes_at_a_time, plan, rollout_order
from devopsellence.cli.images.pin import local_pin
from devopsellence.cli.output import Output
from devopsellence.cli.secrets import pin_versions
from devopsellence.cli.store import releases
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.util.text import columns
from devopsellence.placement import Spread, layout, places
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


async def preview(etcd: Etcd, run: DeployRun) -> None:
    """Print what a deploy would do now."""
    target = await run_checks(etcd, run)
    draft = unpinned_release(run)
    # A secret that is missing is said now, as a deploy would.
    await pin_versions(etcd, run.ref, draft.services, draft.registry if draft.HasField("registry") else None)
    services = [await _presumed(run, service) for service in draft.services]
    absent = sorted({each.image.reference for each in services if each.image.reference and not each.image.pinned})
    compared = await make_plan(etcd, run.ref, services, target.nodes, run.output)
    lines = [headline(str(run.ref), target.newest, compared.steps, compared.nodes)]
    lines += [f"node {target.attached_now} would be attached, as no node is"] if target.attached_now else []
    steps_text = rollout_order(draft.rollout, target.nodes)
    lines += [f"steps: {steps_text}"] if steps_text else []
    app = _app_plan(run)
    lines += [f"app image: {app}"] if app else []
    task = _task_plan(draft, target.nodes)
    lines += [f"release task: {task}"] if task else []
    before = await releases.newest_release(etcd, run.ref)
    routes = before.ingress if before is not None and before.HasField("ingress") else None
    ingress = run.resolved.ingress
    serving = routed.serving_nodes(ingress, services, target.nodes, compared.assigned) if ingress is not None else []
    lines += routed.change_lines(routes, ingress, serving)
    lines += [f"image {reference} is not on this engine; it would be pulled" for reference in absent]
    lines += [*compared.where_text(), "", plan_table(compared.steps)]
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
        plan=plan_document(compared.steps),
        replicas=compared.where_document(),
        ingress=routed.change_document(routes, ingress, serving),
    )


@dataclass(frozen=True)
class DeployPlan:
    """What would happen to the nodes of which is known what they have, and where services with replicas would run."""

    nodes: list[Node]
    steps: list[ServiceChange]
    spreads: list[Spread]
    assigned: dict[str, Assignment]

    def where_text(self) -> list[str]:
        """A line for each service with replicas: on which nodes it runs, and what is in the way of the others."""
        return [f"replicas of {spread.service.name}: {_where(spread)}" for spread in self.spreads]

    def where_document(self) -> list[dict[str, Any]]:
        """The shape that it has in JSON."""
        return [
            {
                "service": spread.service.name,
                "replicas": spread.service.replicas,
                "nodes": list(spread.nodes),
                "refused": dict(spread.refused),
            }
            for spread in self.spreads
        ]


async def make_plan(
    etcd: Etcd, ref: EnvironmentRef, services: Sequence[Service], nodes: Sequence[Node], output: Output
) -> DeployPlan:
    """The steps from what is assigned to ``services``."""
    reader = Reader(etcd)
    keys = {node.name: etcd.keys.assignment(node.name, ref) for node in nodes}
    assigned = await reader.get_many(keys, Assignment)
    unreadable = {problem.key for problem in reader.problems}
    for problem in reader.problems:
        output.warning(f"{problem.key} is {problem.reason}; its node is left out of the plan")
    known = [node for node in nodes if keys[node.name] not in unreadable]
    silent = await replicas.unreachable_nodes(etcd, services, known)
    placed = layout(services, known, replicas.placements_held(assigned), replicas.placement_filters(silent))
    return DeployPlan(known, plan(services, known, assigned, silent), list(placed.spreads.values()), assigned)


def _where(spread: Spread) -> str:
    count = f"{len(spread.nodes)} of {spread.service.replicas}"
    refused = "; ".join(f"{name}: {clause}" for name, clause in sorted(spread.refused.items()))
    return f"{', '.join(spread.nodes) or 'no node'} ({count}{f'; not on {refused}' if refused else ''})"


def plan_table(steps: Iterable[ServiceChange]) -> str:
    """The steps for people; a question mark where it is not certain."""
    rows = [[step.node, step.service, step.kind.value + ("" if step.certain else "?"), step.reason] for step in steps]
    return columns(("NODE", "SERVICE", "ACTION", "WHY"), rows)


def plan_document(steps: Iterable[ServiceChange]) -> list[dict[str, str | bool]]:
    """The shape that they have in JSON."""
    return [_document(step) for step in steps]


async def _presumed(run: DeployRun, service: Service) -> Service:
    """``service`` with its image pinned as far as that is known without building or pulling."""
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


def _task_plan(draft: Release, nodes: Iterable[Node]) -> str:
    """What becomes of the release task; "" where there is none."""
    if not draft.HasField("release_task"):
        return ""
    task = draft.release_task
    service = next(each for each in draft.services if each.name == task.service)
    able = sorted(node.name for node in nodes if places(service, node))
    words = " ".join([*task.command, *task.args])
    return f"{words!r} runs once, as {task.service}, on {able[0]}, before anything of the app is replaced"
