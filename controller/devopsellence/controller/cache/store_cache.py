"""Caches of etcd: an informer for each kind of record, and the environments that a change concerns.

The only effect of a changed key is another look at some environments, regardless of the kind of change. An unknown key
is logged once and ignored; a value that does not parse is logged once and is unreadable for the plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import structlog
from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.cache.grouped import GroupedRecords
from devopsellence.controller.cache.node_index import NodeIndex, NodeTie
from devopsellence.controller.cache.node_views import NodeViews
from devopsellence.controller.cache.validation import (
    checked_certificate,
    checked_claim,
    checked_environment,
    checked_node,
    checked_secret,
)
from devopsellence.controller.model.hosts import assigned_hosts, holder
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.keys import EnvironmentRef, InvalidName, check_name
from devopsellence.store.record import Record, message_of

M = TypeVar("M", bound=Message)
T = TypeVar("T")
_log = structlog.get_logger()


class OnChange(Protocol):
    """Callback for a changed environment; ``urgent``: look at once, otherwise gather further changes first."""

    def __call__(self, ref: EnvironmentRef, *, urgent: bool) -> None: ...


class StoreCache:
    """Caches of all records that the controller reads."""

    def __init__(self, etcd: Etcd, on_change: OnChange, on_connection: Callable[[], None]) -> None:
        """``on_connection`` is called when all caches are connected or no longer are, see :attr:`problem`."""
        self.keys = etcd.keys
        self._on_change = on_change
        self._on_connection = on_connection
        self._index = NodeIndex()
        self._views = NodeViews(self._view)
        # Secrets by service and name, certificates by host, ingress parts by name of the part.
        self._secrets_of: GroupedRecords[EnvironmentRef, tuple[str, str], pb.Secret] = GroupedRecords()
        self._certificates_of: GroupedRecords[EnvironmentRef, str, pb.Certificate] = GroupedRecords()
        self._parts_of: GroupedRecords[tuple[EnvironmentRef, str], str, pb.NodeIngress] = GroupedRecords()
        # Claims by node and host, their keys by node and environment, and the hosts that assignments name.
        self._claims_of: GroupedRecords[str, str, pb.HostClaim] = GroupedRecords()
        self._claimed: dict[tuple[str, EnvironmentRef], set[str]] = {}
        self._claimants: dict[str, EnvironmentRef] = {}
        self._served: dict[str, dict[EnvironmentRef, frozenset[str]]] = {}
        # Unknown or unreadable keys with the revision that has been logged: each is logged once.
        self._logged: dict[str, int] = {}
        self._was_connected = False
        self._informers: list[Informer[Any]] = []
        self._nodes, self._heartbeats, self._environments, self._releases = (
            self._informer(etcd, self.keys.nodes_prefix, pb.Node, self._node_changed),
            self._informer(etcd, self.keys.heartbeats_prefix, pb.Heartbeat, self._heartbeat_changed),
            self._informer(etcd, self.keys.environments_prefix, pb.Environment, self._environment_changed),
            self._informer(etcd, self.keys.all_releases_prefix, pb.Release, self._release_changed),
        )
        self._rollouts, self._assignments, self._statuses = (
            self._informer(etcd, self.keys.rollouts_prefix, pb.Rollout, self._rollout_changed),
            self._informer(etcd, self.keys.all_assignments_prefix, pb.Assignment, self._assignment_changed),
            self._informer(etcd, self.keys.all_statuses_prefix, pb.AssignmentStatus, self._status_changed),
        )
        self._secrets, self._certificates, self._parts = (
            self._informer(etcd, self.keys.all_secrets_prefix, pb.Secret, self._secret_changed),
            self._informer(etcd, self.keys.all_certificates_prefix, pb.Certificate, self._certificate_changed),
            self._informer(etcd, self.keys.all_ingress_prefix, pb.NodeIngress, self._part_changed),
        )
        self._claims = self._informer(etcd, self.keys.hosts_prefix, pb.HostClaim, self._claim_changed)

    def _informer(self, etcd: Etcd, prefix: str, kind: type[M], on_change: Callable[[str], None]) -> Informer[M]:
        informer = Informer(etcd, prefix, kind, on_change, on_connection=self._connection_changed)
        self._informers.append(informer)
        return informer

    async def run(self) -> None:
        """Keep all caches up to date until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())

    async def synced(self) -> None:
        """Wait until each cache holds a first complete list."""
        await asyncio.gather(*(informer.synced() for informer in self._informers))

    @property
    def problem(self) -> str:
        """Return why the caches may be old; empty if all are connected."""
        return next((informer.problem or "not connected" for informer in self._informers if not informer.connected), "")

    def _connection_changed(self) -> None:
        problem = self.problem
        if self._was_connected and problem:
            self._was_connected = False
            _log.warning("caches not connected", reason=problem)
            self._on_connection()
        elif not self._was_connected and not problem:
            self._was_connected = True
            _log.info("caches connected")
            self._on_connection()

    def environments(self) -> list[EnvironmentRef]:
        """Return all environments with a record, sorted."""
        refs = {*self._index.environments(), *self._certificates_of}
        for key in [*self._environments.records, *self._rollouts.records]:
            if (ref := _parsed(self.keys.parse_environment, key)) is not None:
                refs.add(ref)
        return sorted(refs)

    def count_of_nodes(self, ref: EnvironmentRef) -> int:
        """Return the number of nodes in a plan for ``ref``."""
        return self._index.count_of(ref)

    def observe(self, ref: EnvironmentRef) -> EnvironmentSnapshot:
        """Return the snapshot of ``ref``."""
        keys = self.keys
        environment = checked_environment(self._environments.records.get(keys.environment(ref)), ref)
        release: Record[pb.Release] | None = None
        if environment is not None and environment.message is not None and environment.message.latest_release:
            release = self._releases.records.get(keys.release(ref, environment.message.latest_release))
        rollout = self._rollouts.records.get(keys.rollout(ref))
        nodes = self._views.of(ref, self._index.nodes_of(ref))
        secrets, certificates = self._secrets_of.of(ref), self._certificates_of.of(ref)
        snapshot = EnvironmentSnapshot(
            ref,
            environment,
            release,
            rollout,
            nodes,
            secrets=secrets,
            certificates=certificates,
            served_hosts=self._served,
        )
        number = snapshot.fallback_number
        return replace(snapshot, fallback=self._releases.records.get(keys.release(ref, number))) if number else snapshot

    def _view(self, ref: EnvironmentRef, name: str) -> NodeView:
        keys = self.keys
        return NodeView(
            name,
            checked_node(self._nodes.records.get(f"{keys.nodes_prefix}{name}"), name),
            self._heartbeats.records.get(f"{keys.heartbeats_prefix}{name}"),
            self._assignments.records.get(f"{keys.all_assignments_prefix}{name}/{ref}"),
            self._statuses.records.get(f"{keys.all_statuses_prefix}{name}/{ref}"),
            self._parts_of.of((ref, name)),
            self._claims_of.of(name),
        )

    def expect(self, written: Iterable[tuple[str, bytes, Message]]) -> None:
        """Announce writes of this leader, as key, value and message, so that informers need not parse them."""
        written_prefixes: list[tuple[str, Informer[Any]]] = [
            (self.keys.all_assignments_prefix, self._assignments),
            (self.keys.rollouts_prefix, self._rollouts),
            (self.keys.all_certificates_prefix, self._certificates),
            (self.keys.all_ingress_prefix, self._parts),
            (self.keys.hosts_prefix, self._claims),
        ]
        for key, value, message in written:
            for prefix, informer in written_prefixes:
                if key.startswith(prefix):
                    informer.expect(key, value, message)

    def _node_changed(self, key: str) -> None:
        self._about_node(key, self._nodes)

    def _heartbeat_changed(self, key: str) -> None:
        self._about_node(key, self._heartbeats)

    def _about_node(self, key: str, informer: Informer[Any]) -> None:
        record = informer.records.get(key)
        node = self._known(self.keys.parse_node, key, record)
        if node is not None:
            if informer is self._nodes:
                self._log_unreadable(checked_node(record, node))
            for ref in self._index.environments_of(node):
                self._views.touch(ref, node)
                self._on_change(ref, urgent=False)

    def _environment_changed(self, key: str) -> None:
        stored = self._environments.records.get(key)
        ref = self._known(self.keys.parse_environment, key, stored)
        if ref is None:
            return
        record = checked_environment(stored, ref)
        self._log_unreadable(record)
        if record is None:
            self._index.attach(ref, ())
        elif record.message is not None:
            self._index.attach(ref, self._valid_names(record))
        self._on_change(ref, urgent=True)

    def _valid_names(self, record: Record[pb.Environment]) -> list[str]:
        names = []
        for name in record.message.nodes if record.message is not None else ():
            try:
                names.append(check_name("node", name))
            except InvalidName as error:
                self._log_once(record.key, record.mod_revision, "environment names an invalid node", str(error))
        return names

    def _release_changed(self, key: str) -> None:
        parsed = self._known(self.keys.parse_release, key, self._releases.records.get(key))
        if parsed is not None:
            self._on_change(parsed[0], urgent=True)

    def _rollout_changed(self, key: str) -> None:
        ref = self._known(self.keys.parse_environment, key, self._rollouts.records.get(key))
        if ref is not None:
            self._on_change(ref, urgent=False)

    def _secret_changed(self, key: str) -> None:
        record = self._secrets.records.get(key)
        parsed = self._known(self.keys.parse_secret, key, record)
        if parsed is None:
            return
        ref, service, name = parsed
        checked = checked_secret(record, ref, service, name)
        self._secrets_of.set(ref, (service, name), checked)
        self._log_unreadable(checked)
        self._on_change(ref, urgent=False)

    def _certificate_changed(self, key: str) -> None:
        record = self._certificates.records.get(key)
        parsed = self._known(self.keys.parse_certificate, key, record)
        if parsed is not None:
            ref, host = parsed
            checked = checked_certificate(record, ref, host)
            self._certificates_of.set(ref, host, checked)
            self._log_unreadable(checked)
            self._on_change(ref, urgent=False)

    def _part_changed(self, key: str) -> None:
        record = self._parts.records.get(key)
        parsed = self._known(self.keys.parse_ingress, key, record)
        if parsed is not None:
            node, ref, part = parsed
            self._parts_of.set((ref, node), part, record)
            self._index.set(ref, node, NodeTie.INGRESS, present=(ref, node) in self._parts_of)
            self._views.touch(ref, node)
            self._on_change(ref, urgent=False)

    def _claim_changed(self, key: str) -> None:
        record = self._claims.records.get(key)
        parsed = self._known(self.keys.parse_host_claim, key, record)
        if parsed is None:
            return
        node, host = parsed
        checked = checked_claim(record, node, host)
        self._log_unreadable(checked)
        self._claims_of.set(node, host, checked)
        self._set_claimant(node, key, holder(checked))
        for ref in self._index.environments_of(node):
            self._views.touch(ref, node)
            self._on_change(ref, urgent=False)

    def _set_claimant(self, node: str, key: str, ref: EnvironmentRef | None) -> None:
        former = self._claimants.pop(key, None)
        if former is not None:
            self._claimed[node, former].discard(key)
        if ref is not None:
            self._claimants[key] = ref
            self._claimed.setdefault((node, ref), set()).add(key)
        for concerned in {former, ref}:
            if concerned is not None:
                present = bool(self._claimed.get((node, concerned)))
                self._index.set(concerned, node, NodeTie.CLAIM, present=present)
                if not present:
                    self._claimed.pop((node, concerned), None)
        if former is not None:
            self._on_change(former, urgent=False)

    def _assignment_changed(self, key: str) -> None:
        self._about_assignment(key, self._assignments, NodeTie.ASSIGNMENT)
        if (parsed := _parsed(self.keys.parse_assignment, key)) is not None:
            self._set_served(*parsed, assigned_hosts(message_of(self._assignments.records.get(key))))

    def _set_served(self, node: str, ref: EnvironmentRef, hosts: frozenset[str]) -> None:
        """Note the hosts that ``node`` serves for ``ref``; other environments may wait for one that is gone."""
        served = self._served.setdefault(node, {})
        before = served.pop(ref, frozenset())
        if hosts:
            served[ref] = hosts
        if not served:
            del self._served[node]
        if before - hosts:
            for other in self._index.environments_of(node):
                self._on_change(other, urgent=False)

    def _status_changed(self, key: str) -> None:
        self._about_assignment(key, self._statuses, NodeTie.STATUS)

    def _about_assignment(self, key: str, informer: Informer[Any], tie: NodeTie) -> None:
        record = informer.records.get(key)
        parsed = self._known(self.keys.parse_assignment, key, record)
        if parsed is not None:
            node, ref = parsed
            self._index.set(ref, node, tie, present=record is not None)
            self._views.touch(ref, node)
            self._on_change(ref, urgent=False)

    def _known(self, parse: Callable[[str], T], key: str, record: Record[Any] | None) -> T | None:
        """Return the parsed ``key``, None if unknown; log an unknown key or an unreadable value once."""
        parsed = _parsed(parse, key)
        if record is None:
            self._logged.pop(key, None)
        elif parsed is None:
            self._log_once(key, 0, "key ignored", "not a key known to this version")
        else:
            self._log_unreadable(record)
        return parsed

    def _log_unreadable(self, record: Record[Any] | None) -> None:
        if record is not None and record.error is not None:
            self._log_once(record.key, record.mod_revision, "record unreadable", record.error.reason)

    def _log_once(self, key: str, revision: int, message: str, reason: str) -> None:
        if self._logged.get(key) != revision:
            self._logged[key] = revision
            _log.warning(message, key=key, reason=reason)


def _parsed(parse: Callable[[str], T], key: str) -> T | None:
    try:
        return parse(key)
    except ValueError:
        return None
