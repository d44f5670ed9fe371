"""The part of starting that talks to etcd: users, the node, and waiting until everybody is at work."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from devopsellence.api.v1.stored_pb2 import Candidate, Node
from devopsellence.cli.dev import cluster, readiness
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.process import identify
from devopsellence.cli.dev.spec import ProcessReport, read_snapshot
from devopsellence.cli.dev.state import CONTROLLER, OPERATOR, DevState, settings_of
from devopsellence.cli.store.transaction import change, now
from devopsellence.store import acl
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd

T = TypeVar("T")
DEFAULT_LABELS: Final = ("web", "worker")
_CALL_SECONDS: Final = 4.0

Progress = Callable[..., None]  # (message, **data): a step is done


class StartSequence:
    """One start. ``start_rest()`` has the supervisor run the controller and the agent beside etcd."""

    def __init__(self, layout: DevLayout, state: DevState, progress: Progress, start_rest: Callable[[], None]) -> None:
        self._layout = layout
        self._state = state
        self._progress = progress
        self._start_rest = start_rest

    async def run(self, labels: tuple[str, ...] | None) -> tuple[tuple[str, ...], str]:
        """Return once all three are at work: the node's labels, and what hinders its agent ("" when nothing does).

        Raises:
            CliError: ``dev_not_ready``: one of them is not.
        """
        settings = settings_of(self._layout, self._state, OPERATOR)
        async with Etcd(settings, timeout=_CALL_SECONDS) as etcd:
            member = await self._within(cluster.ETCD, "etcd does not answer", readiness.etcd_answers(etcd))
            address = settings.endpoints[0]
            self._progress(f"etcd {member.version} answers at {address}", part=cluster.ETCD, address=address)
            node = await self._within(cluster.ETCD, "etcd could not be prepared", self._prepare(etcd, labels))
            self._start_rest()
            leads = readiness.controller_leads(etcd, lambda: self._report(CONTROLLER).pid)
            await self._within(CONTROLLER, "the controller does not lead", leads)
            self._progress("the controller leads", part=CONTROLLER)
            beats = readiness.agent_beats(etcd, node.name, node.uid, lambda: self._report(cluster.AGENT).since)
            beat = await self._within(cluster.AGENT, "the agent gives no sign of life", beats)
            self._progress(
                f"the agent of node {node.name} is there", part=cluster.AGENT, node=node.name, address=beat.api_address
            )
        return tuple(node.labels), readiness.problem_of(beat)

    async def _prepare(self, etcd: Etcd, labels: tuple[str, ...] | None) -> Node:
        """Users and their grants, and the node's record."""
        await acl.enable(etcd)
        await acl.grant_node(etcd, self._state.node_name, self._state.node_uid)
        await _depose_the_dead(etcd)
        key = etcd.keys.node(self._state.node_name)
        return await change(etcd, key, Node, lambda before: registered(before, self._state, labels))

    async def _within(self, process: str, what: str, ready: Awaitable[T]) -> T:
        return await readiness.within(self._layout, process, what, ready)

    def _report(self, process: str) -> ProcessReport:
        snapshot = read_snapshot(self._layout.snapshot)
        return snapshot.process(process) if snapshot else ProcessReport(process, "")


async def _depose_the_dead(etcd: Etcd) -> None:
    """End the candidacies of this machine's controllers that are gone without a word (kill -9, a reboot).

    Their leases would run out by themselves; until then nobody else leads, and whoever types ``dev up`` waits.
    """
    for item in (await etcd.list(etcd.keys.election_prefix)).items:
        try:
            host, _, pid = decode(Candidate, item.key, item.value).identity.rpartition("/")
        except MalformedRecord:
            continue
        if host == socket.gethostname() and pid.isdecimal() and identify(int(pid)) is None and item.lease:
            await etcd.revoke_lease(item.lease)


def registered(before: Node | None, state: DevState, labels: tuple[str, ...] | None) -> Node:
    """The node's record. What a person changed in it since stays, unless they say otherwise now with ``labels``."""
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
