"""Play of a schedule: run all steps on a cluster, undo all faults, wait for the expected end."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.errors import StoreError
from tests.integration.controller.audit import audit, next_revision, read_history
from tests.schedules.cluster import Cluster, ControllerActor, HollowNode
from tests.schedules.operator import Operator, answered
from tests.schedules.schedule import OPERATOR_STEPS, Schedule, Step, StepKind
from tests.schedules.verdict import ScheduleEnd, defects, regressions

OPERATOR: Final = "operator"
#: For the end to be reached; a container that was held back goes on within 10 s, a heartbeat lasts as long.
BOUND_SECONDS: Final = 90.0
#: So long it has to stay as it is.
STILL_SECONDS: Final = 0.3


async def play(schedule: Schedule, cluster: Cluster) -> list[str]:
    """Play a schedule; return the defects of the end, none if all is as the last release asks for."""
    since = await answered(lambda: next_revision(cluster.etcd))
    operator = Operator(cluster.etcd, lambda image: _withhold(cluster, image))
    await operator.begin(schedule)
    await cluster.start()
    begun = asyncio.get_running_loop().time()
    turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    async with asyncio.TaskGroup() as happening:
        for step in schedule.steps:
            await asyncio.sleep(begun + step.at - asyncio.get_running_loop().time())
            turn = turns[OPERATOR if step.what in OPERATOR_STEPS else step.part]
            happening.create_task(_in_turn(turn, step, cluster, operator))
    found = await _settle(cluster, operator)
    history = await answered(lambda: read_history(cluster.etcd, since))
    keys = cluster.etcd.keys
    misdeeds = [f"{name}: {misdeed}" for name, node in cluster.nodes.items() for misdeed in node.machine.misdeeds]
    return [*found, *misdeeds, *audit(history, keys).defects, *regressions(history, keys)]


async def _settle(cluster: Cluster, operator: Operator) -> list[str]:
    """Return once there are no defects for a while; or return the defects at the time limit."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + BOUND_SECONDS
    fine_since: float | None = None
    while True:
        try:
            found = defects(await _end(cluster, operator))
        except StoreError as error:
            found = [f"etcd cannot be read: {error}"]
        now = loop.time()
        if found:
            fine_since = None
        elif fine_since is None:
            fine_since = now
        elif now - fine_since >= STILL_SECONDS:
            return []
        if now > give_up:
            return found
        await asyncio.sleep(0.1)


async def _end(cluster: Cluster, operator: Operator) -> ScheduleEnd:
    listing = await cluster.etcd.list(cluster.etcd.keys.prefix)
    values = {item.key: item.value for item in listing.items}
    machines = {name: node.machine for name, node in cluster.nodes.items()}
    return ScheduleEnd(
        cluster.etcd.keys,
        values,
        operator.shapes,
        containers={name: tuple(machine.own) for name, machine in machines.items()},
        networks={name: len(machine.networks) for name, machine in machines.items()},
        tasks_started=[machine.tasks_started for machine in machines.values()],
        served={name: node.envoy.served() for name, node in cluster.nodes.items()},
    )


def _withhold(cluster: Cluster, image: str) -> None:
    for node in cluster.nodes.values():
        node.machine.faults.missing.add(image)


async def _in_turn(turn: asyncio.Lock, step: Step, cluster: Cluster, operator: Operator) -> None:
    """Run the steps of a part in sequence, even if a step takes long to end; likewise the changes of operators."""
    async with turn:
        await _happen(step, cluster, operator)


async def _happen(step: Step, cluster: Cluster, operator: Operator) -> None:
    if step.what in _TO_CONTROLLERS:
        await _TO_CONTROLLERS[step.what](cluster.controllers[step.target], step.seconds)
    elif step.what in _TO_MACHINES:
        await _TO_MACHINES[step.what](cluster.nodes[step.target], step.seconds)
    elif step.what in _TO_ETCD:
        await _TO_ETCD[step.what](cluster, step.seconds)
    elif step.what is StepKind.CUT_AGENT:
        await _cut_agent(cluster.nodes[step.target], operator, step.seconds)
    else:
        await _wish(step, operator)


async def _wish(step: Step, operator: Operator) -> None:
    match step.what:
        case StepKind.DEPLOY | StepKind.RACE:
            await asyncio.gather(*(operator.deploy(shape) for shape in step.shapes))
        case StepKind.ATTACH | StepKind.DETACH:
            await operator.attach(step.target, attached=step.what is StepKind.ATTACH)
        case StepKind.DELETE_NODE_KEY | StepKind.DELETE_CONTROLLER_KEY:
            assert step.key is not None
            await operator.delete(step.key, step.target)
        case StepKind.RELABEL:

            def relabel(node: pb.Node) -> None:
                node.labels[:] = sorted(step.labels)

            await operator.change_node(step.target, relabel)
        case StepKind.CORDON | StepKind.UNCORDON:

            def cordon(node: pb.Node) -> None:
                node.cordoned = step.what is StepKind.CORDON

            await operator.change_node(step.target, cordon)
        case _:
            raise AssertionError(step.what)


async def _kill_agent(node: HollowNode, seconds: float) -> None:
    await node.agent.kill()
    await asyncio.sleep(seconds)
    node.agent.start()


async def _stop_agent(node: HollowNode, seconds: float) -> None:
    await node.agent.stop()
    await asyncio.sleep(seconds)
    node.agent.start()


async def _reboot(node: HollowNode, seconds: float) -> None:
    await node.agent.kill()
    node.machine.reboot()
    await asyncio.sleep(seconds)
    node.agent.start()


async def _hold(actor: HollowNode | ControllerActor, seconds: float) -> None:
    actor.relay.hold()
    await asyncio.sleep(seconds)
    actor.relay.release()


async def _cut(actor: HollowNode | ControllerActor, seconds: float) -> None:
    actor.relay.refuse()
    await asyncio.sleep(seconds)
    actor.relay.accept()


async def _cut_agent(node: HollowNode, operator: Operator, seconds: float) -> None:
    node.relay.refuse()
    await operator.expire_heartbeat(node.name)
    await asyncio.sleep(seconds)
    node.relay.accept()


async def _engine_away(node: HollowNode, seconds: float) -> None:
    node.machine.leave()
    await asyncio.sleep(seconds)
    node.machine.come_back()


async def _slow_engine(node: HollowNode, seconds: float) -> None:
    node.machine.faults.call_seconds = seconds / 4
    await asyncio.sleep(seconds)
    node.machine.faults.call_seconds = 0.0


async def _crash(node: HollowNode, _seconds: float) -> None:
    if container := _any_running(node):
        node.machine.end(container, 1)


def _any_running(node: HollowNode) -> str:
    """Return the id of a running container of a service; empty if there is none."""
    running = (container for container in node.machine.own if container.up and not container.task)
    return next((container.id for container in running), "")


async def _hang(node: HollowNode, seconds: float) -> None:
    if container := _any_running(node):
        node.machine.hang(container)
        await asyncio.sleep(seconds)
        node.machine.answer(container)


async def _pause(node: HollowNode, seconds: float) -> None:
    if container := _any_running(node):
        node.machine.pause(container)
        await asyncio.sleep(seconds)
        node.machine.unpause(container)


async def _restart_always(node: HollowNode, _seconds: float) -> None:
    if container := _any_running(node):
        node.machine.restart_always(container)


async def _rename(node: HollowNode, _seconds: float) -> None:
    if container := _any_running(node):
        node.machine.rename(container, f"{node.machine.containers[container].name}-by-hand")


async def _commit(node: HollowNode, _seconds: float) -> None:
    if container := _any_running(node):
        node.machine.commit(container)


async def _disconnect(node: HollowNode, _seconds: float) -> None:
    for network in list(node.machine.networks):
        node.machine.disconnect(network)


async def _remove_network(node: HollowNode, _seconds: float) -> None:
    for network in list(node.machine.networks):
        node.machine.discard_network(network)


async def _clock_step(node: HollowNode, seconds: float) -> None:
    node.machine.faults.clock_seconds = -3600.0
    await asyncio.sleep(seconds)
    node.machine.faults.clock_seconds = 0.0


async def _disk_full(node: HollowNode, seconds: float) -> None:
    await asyncio.to_thread(node.disk.fill)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(node.disk.empty)


async def _read_only(node: HollowNode, seconds: float) -> None:
    await asyncio.to_thread(node.disk.make_read_only)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(node.disk.make_writable)


async def _envoy_refuses(node: HollowNode, seconds: float) -> None:
    node.envoy.faults.refuses = True
    await asyncio.sleep(seconds)
    node.envoy.faults.refuses = False


async def _envoy_slow(node: HollowNode, seconds: float) -> None:
    node.envoy.faults.read_seconds = seconds / 2
    await asyncio.sleep(seconds)
    node.envoy.faults.read_seconds = 0.0


async def _envoy_away(node: HollowNode, seconds: float) -> None:
    node.envoy.faults.away = True
    await asyncio.sleep(seconds)
    node.envoy.faults.away = False


async def _long_requests(node: HollowNode, seconds: float) -> None:
    node.envoy.faults.request_seconds = seconds
    await asyncio.sleep(seconds)
    node.envoy.faults.request_seconds = 0.0


async def _kill_controller(controller: ControllerActor, seconds: float) -> None:
    await controller.kill()
    await asyncio.sleep(seconds)
    controller.start()


async def _stop_controller(controller: ControllerActor, seconds: float) -> None:
    await controller.stop()
    await asyncio.sleep(seconds)
    controller.start()


async def _pause_etcd(cluster: Cluster, seconds: float) -> None:
    cluster.server.pause()
    await asyncio.sleep(seconds)
    cluster.server.resume()


async def _restart_etcd(cluster: Cluster, seconds: float) -> None:
    await asyncio.to_thread(cluster.server.kill)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(cluster.server.start)


_TO_MACHINES: Final[dict[StepKind, Callable[[HollowNode, float], Awaitable[None]]]] = {
    StepKind.KILL_AGENT: _kill_agent,
    StepKind.STOP_AGENT: _stop_agent,
    StepKind.HOLD_AGENT: _hold,
    StepKind.ENGINE_AWAY: _engine_away,
    StepKind.SLOW_ENGINE: _slow_engine,
    StepKind.CRASH: _crash,
    StepKind.REBOOT: _reboot,
    StepKind.HANG: _hang,
    StepKind.PAUSE: _pause,
    StepKind.RESTART_ALWAYS: _restart_always,
    StepKind.RENAME: _rename,
    StepKind.COMMIT: _commit,
    StepKind.DISCONNECT: _disconnect,
    StepKind.REMOVE_NETWORK: _remove_network,
    StepKind.CLOCK_STEP: _clock_step,
    StepKind.DISK_FULL: _disk_full,
    StepKind.READ_ONLY: _read_only,
    StepKind.ENVOY_REFUSES: _envoy_refuses,
    StepKind.ENVOY_SLOW: _envoy_slow,
    StepKind.ENVOY_AWAY: _envoy_away,
    StepKind.LONG_REQUESTS: _long_requests,
}
_TO_CONTROLLERS: Final[dict[StepKind, Callable[[ControllerActor, float], Awaitable[None]]]] = {
    StepKind.KILL_CONTROLLER: _kill_controller,
    StepKind.STOP_CONTROLLER: _stop_controller,
    StepKind.HOLD_CONTROLLER: _hold,
    StepKind.CUT_CONTROLLER: _cut,
}
_TO_ETCD: Final[dict[StepKind, Callable[[Cluster, float], Awaitable[None]]]] = {
    StepKind.PAUSE_ETCD: _pause_etcd,
    StepKind.RESTART_ETCD: _restart_etcd,
}
