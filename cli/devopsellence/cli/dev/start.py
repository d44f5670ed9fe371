"""Second half of ``dev up``: the node's record, and the wait until all processes are ready."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from devopsellence.api.v1.stored_pb2 import Candidate, Node
from devopsellence.certificates.approval import approve_node
from devopsellence.cli.dev import cluster, readiness
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.process import identify
from devopsellence.cli.dev.spec import ProcessReport, read_snapshot
from devopsellence.cli.dev.state import CONTROLLER, OPERATOR, DevState, settings_of
from devopsellence.cli.store.transaction import change, now
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd

T = TypeVar("T")
DEFAULT_LABELS: Final = ("web", "worker")
_CALL_SECONDS: Final = 4.0

Progress = Callable[..., None]  # (message, **data): report a finished step


class StartSequence:
    """Start of a cluster whose etcd is starting; ``start_rest()`` makes the supervisor run controller and agent too."""

    def __init__(self, layout: DevLayout, state: DevState, progress: Progress, start_rest: Callable[[], None]) -> None:
        self._layout = layout
        self._state = state
        self._progress = progress
        self._start_rest = start_rest

    async def run(self, labels: tuple[str, ...] | None) -> tuple[tuple[str, ...], str]:
        """Wait until all three processes are ready; return the node's labels and its agent's problem ("" for none).

        Raises:
            CliError: ``dev_not_ready``.
        """
        settings = settings_of(self._layout, self._state, CONTROLLER)
        through = settings_of(self._layout, self._state, OPERATOR)
        async with Etcd(settings, timeout=_CALL_SECONDS) as etcd, Etcd(through, timeout=_CALL_SECONDS) as gateway:
            await self._supervisor_follows()
            member = await self._within(cluster.ETCD, "etcd does not answer", readiness.etcd_answers(etcd))
            address = settings.endpoints[0]
            self._progress(f"etcd {member.version} is ready at {address}", part=cluster.ETCD, address=address)
            node = await self._within(cluster.ETCD, "etcd could not be set up", self._prepare(etcd, labels))
            self._start_rest()
            await self._supervisor_follows()
            leader = readiness.controller_leads(etcd, lambda: self._report(CONTROLLER).pid)
            await self._within(CONTROLLER, "the controller did not become the leader", leader)
            await self._within(CONTROLLER, "the gateway does not answer", readiness.etcd_answers(gateway))
            self._progress("the controller is ready", part=CONTROLLER)
            heartbeat = readiness.agent_beats(etcd, node.name, node.uid, lambda: self._report(cluster.AGENT).since)
            beat = await self._within(cluster.AGENT, "the agent sent no heartbeat", heartbeat)
            self._progress(
                f"the agent of node {node.name} is ready", part=cluster.AGENT, node=node.name, address=beat.api_address
            )
        return tuple(node.labels), readiness.problem_of(beat)

    async def _supervisor_follows(self) -> None:
        following = readiness.supervisor_follows(self._layout)
        await self._within(cluster.ETCD, "the supervisor does not start what it was told to", following)

    async def _prepare(self, etcd: Etcd, labels: tuple[str, ...] | None) -> Node:
        """Create the record of the node, which gives its agent access."""
        await _depose_the_dead(etcd)
        key = etcd.keys.node(self._state.node_name)

        def edit(before: Node | None) -> Node:
            node = registered(before, self._state, labels)
            if before is None or before.uid != node.uid or not before.HasField("approval"):
                # As the operator, who would have registered the node: a controller approves no recipients.
                approve_node(settings_of(self._layout, self._state, OPERATOR), node)
            return node

        return await change(etcd, key, Node, edit)

    async def _within(self, process: str, what: str, ready: Awaitable[T]) -> T:
        return await readiness.within(self._layout, process, what, ready)

    def _report(self, process: str) -> ProcessReport:
        snapshot = read_snapshot(self._layout.snapshot)
        return snapshot.process(process) if snapshot else ProcessReport(process, "")


async def _depose_the_dead(etcd: Etcd) -> None:
    """Revoke the leases of dead controllers of this machine (kill -9, a reboot).

    The leases would expire by themselves, but until then no other controller leads, and ``dev up`` would wait.
    """
    for item in (await etcd.list(etcd.keys.election_prefix)).items:
        try:
            host, _, pid = decode(Candidate, item.key, item.value).identity.rpartition("/")
        except MalformedRecord:
            continue
        if host == socket.gethostname() and pid.isdecimal() and identify(int(pid)) is None and item.lease:
            await etcd.revoke_lease(item.lease)


def registered(before: Node | None, state: DevState, labels: tuple[str, ...] | None) -> Node:
    """Return the record of the node; ``labels`` replace its labels, other fields of ``before`` stay."""
    node = Node()
    if before is not None:
        node.CopyFrom(before)
    else:
        node.registered_at.CopyFrom(now())
    node.name = state.node_name
    node.uid = state.node_uid
    if labels is not None or before is None:
        node.labels[:] = sorted(set(labels or DEFAULT_LABELS))
    return node
