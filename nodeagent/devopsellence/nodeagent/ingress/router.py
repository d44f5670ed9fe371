"""Router of the node: has Envoy serve the routing configurations, and reports statuses and held containers.

A single level-triggered loop: every event (a new configuration, an event of Envoy's container, a deadline) only wakes
the loop, and each pass decides from the whole state. Envoy's admin API has no events, so the router polls the API at
growing intervals, and only while Envoy has not confirmed everything written; in a settled state nothing is polled.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from devopsellence import clock
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.envoy import endpoints
from devopsellence.nodeagent.envoy.admin import AdminUnavailable, EnvoyState, ExpectedVersion, UpstreamHost
from devopsellence.nodeagent.envoy.clusters import endpoints_path
from devopsellence.nodeagent.envoy.config import bootstrap, cluster_name
from devopsellence.nodeagent.envoy.container import FOLDER
from devopsellence.nodeagent.envoy.endpoints import EndpointKey, TrackedEndpoint
from devopsellence.nodeagent.envoy.files import EnvoyFolder
from devopsellence.nodeagent.envoy.model import (
    IngressOptions,
    ListenerConfig,
    NodeRouting,
    PeerTls,
    RouterStatus,
    RoutingConfig,
)
from devopsellence.nodeagent.envoy.render import ConfigRenderer, RenderedConfig
from devopsellence.nodeagent.envoy.supervisor import DesiredEnvoy, EnvoySupervisor
from devopsellence.nodeagent.ingress.ports import ListenerPorts
from devopsellence.nodeagent.ingress.routing_state import RoutingState
from devopsellence.nodeagent.ingress.status import RouterStatusTracker
from devopsellence.nodeagent.ingress.unknown_routes import UnknownRoutes
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef

#: Polling intervals while Envoy has not confirmed everything: short at first, because Envoy mostly has by then.
POLL_FIRST: Final = 0.005
POLL_FACTOR: Final = 1.5
POLL_CAP: Final = 0.25
#: After this time without confirmation something is wrong: reported, retried, and polled less often.
PATIENCE_SECONDS: Final = 5.0
POLL_PATIENT: Final = 5.0
RETRY_CAP: Final = 60.0
FAILURE_PAUSE_SECONDS: Final = 5.0
_log = structlog.get_logger()


class Router:
    """Implementation of :class:`~devopsellence.nodeagent.ingress.interface.RouterInterface` with Envoy.

    ``changed`` is called when :meth:`held` or :meth:`status` changes for an environment; ``reachable`` with the address
    for other nodes' routers, "" while there is none; ``peer_tls_used`` with the newest :meth:`set_peer_tls` once Envoy
    uses it. ``files``: of the folder that ``folder`` is in.
    """

    def __init__(
        self,
        node: str,
        node_uid: str,
        engine: DockerEngine,
        folder: Path,
        options: IngressOptions,
        disk: ThreadPool,
        changed: Callable[[EnvironmentRef], None],
        *,
        reachable: Callable[[str], None] = lambda address: None,
        peer_tls_used: Callable[[PeerTls], None] = lambda tls: None,
        files: StateFiles | None = None,
    ) -> None:
        self._options = options
        self._disk = disk
        self._changed = changed
        self._reachable = reachable
        self._peer_tls_used = peer_tls_used
        self._folder = EnvoyFolder(folder.absolute(), files)
        self._supervisor = EnvoySupervisor(engine, node_uid, self._folder, disk, self._wake_soon)
        # Half of the processors: more would take time from the services behind Envoy (bench/ingress.py).
        workers = max(1, (os.cpu_count() or 1) // 2)
        self._desired_envoy = DesiredEnvoy(node, node_uid, options.image, bootstrap(FOLDER, node=node), workers)
        self._ports = ListenerPorts(options, disk)
        self._state = RoutingState()
        self._unknown = UnknownRoutes()
        self._listen: ListenerConfig | None = None
        self._renderer = ConfigRenderer(FOLDER)
        #: Time of the next attempt for environments left out for want of inotify instances.
        self._rerender_at: float | None = None
        self._expected: Mapping[str, ExpectedVersion] = {}
        self._tracker = RouterStatusTracker(options)
        self._reported: dict[EnvironmentRef, tuple[RouterStatus, Mapping[str, str]]] = {}
        self._address = ""
        self._used_peer_tls: PeerTls | None = None
        #: Hash of the Envoy that ran in the last pass.
        self._last_running = ""
        #: The state of every running Envoy is known: a replaced one may still send requests to former endpoints.
        self._all_read = False
        #: Hash of the Envoy known to listen.
        self._listening = ""
        self._unavailable_since: float | None = None
        self._written_at = 0.0
        self._rewrites = 0
        self._rewrite_at = 0.0
        self._interval = POLL_FIRST
        self._wake = asyncio.Event()
        self._retry_writing = asyncio.Event()

    # Interface of the reconcile loop.

    def set_routing(self, ref: EnvironmentRef, config: RoutingConfig | None) -> None:
        """See :meth:`RouterInterface.set_routing`."""
        if has_unknown := self._has_unknown_routes():
            self._unknown.routing_set(ref, config, time.monotonic())
            self._wake_soon()
        if self._state.set_config(ref, config, time.monotonic(), may_be_known=has_unknown):
            self._wake_soon()

    def routing(self, ref: EnvironmentRef) -> RoutingConfig | None:
        """See :meth:`RouterInterface.routing`."""
        return self._state.configs.get(ref)

    def held(self, ref: EnvironmentRef) -> Mapping[str, str]:
        """See :meth:`RouterInterface.held`. While no Envoy runs, no container is held once the files for the next
        Envoy are written."""
        if self._supervisor.running or not self._supervisor.observed or self._state.is_pending(ref):
            return endpoints.held(self._state.endpoints, ref)
        return {}

    def status(self, ref: EnvironmentRef) -> RouterStatus:
        """See :meth:`RouterInterface.status`."""
        return self._tracker.status(self._state.configs.get(ref))

    def set_peer_tls(self, tls: PeerTls) -> None:
        """Set TLS towards other nodes' routers; before the first call the node has no peers."""
        self._ports.peer_tls = tls
        self._wake_soon()

    def assignments_listed(self, refs: Collection[EnvironmentRef]) -> None:
        """Handle the first list of the assignments of this node: no other environment is to be routed."""
        self._unknown.listed(refs, self._state.configs)
        self._wake_soon()

    # Events of Docker.

    def engine_connected(self) -> None:
        """Handle a new connection to Docker."""
        self._supervisor.check()

    def container_changed(self) -> None:
        """Handle an event of Envoy's container."""
        self._supervisor.check()
        # A restarted Envoy has not read any file yet.
        self._state.endpoints = endpoints.reset_confirmations(self._state.endpoints)
        self._tracker.envoy_restarted()
        self._listening = ""
        self._wake_soon()

    def folder_changed(self) -> None:
        """Handle damage to the folder that was repaired, and a folder that can, or cannot, be written from now on."""
        self._supervisor.check()
        self._retry_writing.set()
        self._wake_soon()

    async def load(self) -> None:
        """Load the state of the last agent. Raises OSError if the folder cannot be used."""
        await self._disk.run(self._folder.create)
        now = clock.now()
        snapshots, unreadable = await self._disk.run(partial(self._folder.load, now))
        self._unknown.loaded([ref for ref, _, _ in snapshots], unreadable)
        self._state.load(snapshots)

    async def run(self) -> None:
        """Route until cancelled. Envoy goes on by itself afterwards."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._supervisor.run())
            group.create_task(self._loop())

    async def _loop(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_pass()):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._reconcile()
            except Exception as error:  # noqa: BLE001 - the router must go on
                if isinstance(error, OSError):
                    _log.warning("Envoy's files cannot be written", error=str(error))
                else:
                    _log.exception("the router failed unexpectedly")
                self._tracker.write_failed(f"the router's files cannot be written: {error}")
                self._report_changes()
                self._retry_writing.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(FAILURE_PAUSE_SECONDS):
                        await self._retry_writing.wait()
                self._wake_soon()

    async def _reconcile(self) -> None:
        if not self._supervisor.observed:
            return
        await self._note_running_envoy()
        self._state.endpoints = endpoints.without_expired(self._state.endpoints, time.monotonic())
        await self._write_if_needed()
        if self._supervisor.running:
            await self._poll()
        elif not self._state.is_dirty:
            self._release(endpoints.without_draining(self._state.endpoints))
        self._report_changes()
        self._report_peer_tls()

    async def _note_running_envoy(self) -> None:
        """Handle the start or the end of Envoy: which ports and files are in use."""
        running = self._supervisor.running
        if running == self._last_running:
            return
        if not (running and self._last_running):
            # An Envoy started by this agent listens on ports found free before.
            if not running:
                self._renderer.reset()
                self._ports.set_usable(())
            elif not self._ports.usable:
                ports = await self._disk.run(self._folder.last_ports)
                self._ports.set_usable(ports if ports is not None else await self._ports_of_envoy())
                self._renderer.assume_watched(await self._disk.run(self._folder.count))
        self._last_running = self._supervisor.running
        self._tracker.envoy_restarted()

    async def _ports_of_envoy(self) -> frozenset[int]:
        """Return the ports that the running Envoy of the last agent listens on; all that are meant if it does not
        tell."""
        options = self._options
        meant = frozenset({options.http_port, options.https_port, options.peer_port} - {0})
        with suppress(AdminUnavailable, IndexError):
            return meant & (await self._supervisor.admins[0].read_state()).ports
        return meant

    # From routing configurations to Envoy's files.

    async def _write_if_needed(self) -> None:
        """Write files if anything changed, and have Envoy run if there is anything to route."""
        while True:
            changes = self._state.changes
            routing, conflicts = self._state.routing()
            listen = await self._ports.configure(routing)
            # What was set meanwhile is not in this routing, but would count as written with it.
            if changes == self._state.changes:
                break
        self._tracker.conflicts, self._tracker.ports = conflicts, self._ports.problems
        rerender = self._rerender_at is not None and time.monotonic() >= self._rerender_at
        waits = self._has_unknown_routes()
        self._tracker.waits = str(self._unknown) if waits and self._state.is_dirty else ""
        if waits:
            return
        if self._state.is_dirty or listen != self._listen or rerender:
            await self._write(routing, listen)
        # A running Envoy is kept while its only ports are unusable for the moment.
        usable = listen.http_port or listen.https_port or (self._ports.any_configured and self._supervisor.running)
        self._supervisor.set_desired(self._desired_envoy if routing.configs and usable else None)

    def _has_unknown_routes(self) -> bool:
        """Return whether Envoy goes on with the routes that it has, because this agent does not know them all."""
        runs = bool(self._supervisor.running) or not self._supervisor.observed
        return self._unknown.exist(envoy_runs=runs, now=time.monotonic())

    async def _write(self, routing: NodeRouting, listen: ListenerConfig) -> None:
        pending, written, now = self._state.begin_write(), set[EndpointKey](), clock.now()

        def write() -> RenderedConfig:
            snapshots = pending.snapshots(now)
            rendered = self._renderer.render(routing, listen)
            ports = {listen.http_port, listen.https_port, listen.peer_port} - {0}
            try:
                self._folder.write(snapshots, rendered.files, ports)
            finally:
                written.update(key for key in pending.attempted if self._has_endpoint(key, rendered.files))
            return rendered

        try:
            rendered = await self._disk.run(write)
        except BaseException:
            self._state.abandon_write(pending, written)
            raise
        self._state.end_write(pending)
        self._listen = listen
        self._unknown.written()
        self._expected = rendered.expected
        self._tracker.files_written(rendered.routing, rendered.problems)
        self._rerender_at = time.monotonic() + RETRY_CAP if rendered.problems else None
        self._written_at, self._interval = time.monotonic(), POLL_FIRST
        self._rewrites, self._rewrite_at = 0, self._written_at + PATIENCE_SECONDS

    def _has_endpoint(self, key: EndpointKey, files: Mapping[str, bytes]) -> bool:
        """Return whether the file for this endpoint has been written. Blocks."""
        path = endpoints_path(key.ref, key.service, key.port)
        return path not in files or self._folder.holds(path, files[path])

    # From Envoy's state to held containers and statuses.

    async def _poll(self) -> None:
        if not (endpoints.any_unsettled(self._state.endpoints) or self._tracker.is_unsettled(self._expected)):
            return
        # By the time of the response another Envoy may run.
        running = self._supervisor.running
        try:
            state = await self._read_state()
        except AdminUnavailable as error:
            await self._note_unavailable(str(error))
            return
        self._unavailable_since = None
        unused = self._tracker.observe(state, self._expected)
        routes_known = (
            self._all_read and not self._state.is_dirty and not any(path.startswith("rds/") for path in unused)
        )

        def hosts(ref: EnvironmentRef, service: str, port: str) -> Mapping[str, UpstreamHost] | None:
            return state.clusters.get(cluster_name(ref, service, port))

        self._release(endpoints.observe(self._state.endpoints, hosts, time.monotonic(), routes_known=routes_known))
        self._tracker.endpoints_observed(self._state.unconfirmed())
        if not unused:
            self._supervisor.confirm(running)
        elif time.monotonic() >= self._rewrite_at:
            await self._rewrite(unused)

    async def _read_state(self) -> EnvoyState:
        """Return Envoy's state, with the active requests of Envoys being replaced."""
        admins, running = self._supervisor.admins, self._supervisor.running
        if not admins:
            raise AdminUnavailable("Envoy does not run")
        state = await admins[0].read_state()
        if self._listening != running:
            if not await admins[0].is_listening():
                raise AdminUnavailable("Envoy has not begun to listen")
            self._listening = running
        self._all_read = True
        for replaced in admins[1:]:
            try:
                state = endpoints.merge_states(state, await replaced.read_state())
            except AdminUnavailable:
                self._all_read = False
        return state

    async def _note_unavailable(self, problem: str) -> None:
        """Handle a silent admin API: expected for a moment after a start, a problem for longer."""
        now = time.monotonic()
        self._unavailable_since = self._unavailable_since or now
        if now - self._unavailable_since > PATIENCE_SECONDS:
            log_line = await self._supervisor.last_log_line()
            self._tracker.admin_unavailable(f"{problem}; last line of its log: {log_line}" if log_line else problem)

    async def _rewrite(self, unused: frozenset[str]) -> None:
        """Have Envoy read rejected files again, and report Envoy's reason for the rejection."""
        with suppress(AdminUnavailable):
            self._tracker.config_rejected(
                await self._supervisor.admins[0].rejected_config() or f"it does not use {', '.join(sorted(unused))}"
            )
        await self._disk.run(partial(self._folder.rewrite, sorted(unused)))
        self._rewrites += 1
        self._rewrite_at = time.monotonic() + min(RETRY_CAP, PATIENCE_SECONDS * 2.0**self._rewrites)

    def _release(self, after: dict[EndpointKey, TrackedEndpoint]) -> None:
        if drained := self._state.release(after):
            _log.info("endpoints drained", containers=sorted({key.container for key in drained}))
            self._wake_soon()

    def _report_changes(self) -> None:
        supervisor = self._supervisor
        self._tracker.set_envoy(running=bool(supervisor.running), problem=supervisor.problem, failed=supervisor.failed)
        for ref in {*self._state.environments, *self._reported}:
            report = self.status(ref), dict(self.held(ref))
            if self._reported.get(ref) != report:
                self._reported[ref] = report
                self._changed(ref)
            if ref not in self._state.configs:
                self._reported.pop(ref, None)
        address = self._options.peer_address if self._tracker.listens_on(self._options.peer_port) else ""
        if address != self._address:
            self._address = address
            self._reachable(address)

    def _report_peer_tls(self) -> None:
        """Report TLS towards other routers once Envoy uses it; while none routes, the next one will."""
        tls = self._ports.peer_tls
        written = self._listen is not None and self._listen.peer_tls in (tls, None)
        if tls is not None and tls != self._used_peer_tls and written and self._tracker.uses_secrets():
            self._used_peer_tls = tls
            self._peer_tls_used(tls)

    def _wake_soon(self) -> None:
        self._interval = POLL_FIRST
        self._wake.set()

    def _next_pass(self) -> float | None:
        """Return the time of the next pass without an event (monotonic, the loop's clock); None: wait for events."""
        if not self._supervisor.observed:
            return None
        routing = NodeRouting(tuple(filter(None, self._state.configs.values())))
        now, drain_deadline = time.monotonic(), endpoints.next_deadline(self._state.endpoints)
        times = [self._ports.next_check(routing), drain_deadline, self._rerender_at, self._unknown.next_deadline(now)]
        unsettled = endpoints.any_unsettled(self._state.endpoints) or self._tracker.is_unsettled(self._expected)
        if self._supervisor.running and unsettled:
            times.append(now + self._interval)
            patient = (
                now - self._written_at > PATIENCE_SECONDS and endpoints.next_deadline(self._state.endpoints) is None
            )
            self._interval = min(POLL_PATIENT if patient else POLL_CAP, self._interval * POLL_FACTOR)
        return min((moment for moment in times if moment is not None), default=None)
