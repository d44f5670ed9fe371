"""The node's router: what is wanted becomes files, Envoy is seen to follow them, and what that means is told.

One loop, driven by levels: whatever happens (a wish, an event of Envoy's container, a time that has come) only wakes
it, and each turn decides from the whole state. Envoy's admin interface has nothing to be followed, so it is asked,
at growing intervals, and only while something is not yet as it was written; at rest nobody is asked anything.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from devopsellence.nodeagent.docker.model import Now
from devopsellence.nodeagent.envoy import config, endpoints, files
from devopsellence.nodeagent.envoy.admin import AdminSilent, Expected, Host, Seen
from devopsellence.nodeagent.envoy.container import FOLDER
from devopsellence.nodeagent.envoy.endpoints import Key, Place
from devopsellence.nodeagent.envoy.files import EnvoyFolder
from devopsellence.nodeagent.envoy.model import (
    DEFAULT_DRAIN_SECONDS,
    IngressOptions,
    Listen,
    RouterStatus,
    Routing,
    Site,
)
from devopsellence.nodeagent.envoy.render import Rendered, Rendering
from devopsellence.nodeagent.envoy.supervisor import Engine, Keeper, Wanted
from devopsellence.nodeagent.ingress.ports import Listening
from devopsellence.nodeagent.ingress.site import settle
from devopsellence.nodeagent.ingress.status import Standing
from devopsellence.nodeagent.tls import Files
from devopsellence.nodeagent.util.threads import Pool
from devopsellence.store.keys import EnvironmentRef

#: Between two looks at Envoy while it has yet to do something: quick at first, because mostly it has.
LOOK_FIRST: Final = 0.005
LOOK_FACTOR: Final = 1.5
LOOK_CAP: Final = 0.25
#: After this long something is wrong: it is told, tried again, and looked at more seldom.
PATIENCE_SECONDS: Final = 5.0
LOOK_PATIENT: Final = 5.0
RETRY_CAP: Final = 60.0
AFTER_TROUBLE_SECONDS: Final = 5.0
_log = structlog.get_logger()


class Router:
    """Routes, as ``routing.Routes`` says. :meth:`load` first, then :meth:`run` until cancelled.

    ``changed`` is called when :meth:`held` or :meth:`status` has another answer for an environment; ``reachable`` with
    where other nodes' routers reach this one, "" while they do not. ``certificate``: the node's own, for those; without
    it there are none.
    """

    def __init__(
        self,
        node: str,
        node_uid: str,
        engine: Engine,
        folder: Path,
        options: IngressOptions,
        disk: Pool,
        changed: Callable[[EnvironmentRef], None],
        *,
        certificate: Files | None = None,
        reachable: Callable[[str], None] = lambda address: None,
    ) -> None:
        self._options = options
        self._disk = disk
        self._changed = changed
        self._reachable = reachable
        self._folder = EnvoyFolder(folder.absolute())
        self._keeper = Keeper(engine, node_uid, self._folder, disk, self._look_soon)
        # Half of the processors: more would only be taken from the services behind it (bench/ingress.py).
        workers = max(1, (os.cpu_count() or 1) // 2)
        self._envoy = Wanted(node, node_uid, options.image, config.bootstrap(FOLDER, node=node), workers)
        self._listening = Listening(options, self._folder, disk, certificate)
        self._sites: dict[EnvironmentRef, Site | None] = {}
        self._places: dict[Key, Place] = {}
        self._dirty: set[EnvironmentRef] = set()
        self._listen: Listen | None = None
        self._rendering = Rendering(FOLDER)
        self._refit: float | None = None
        self._expected: Mapping[str, Expected] = {}
        self._standing = Standing(options)
        self._told: dict[EnvironmentRef, tuple[RouterStatus, Mapping[str, str]]] = {}
        self._address = ""
        self._ran = ""
        self._listens = ""
        self._silent_since: float | None = None
        self._written = 0.0
        self._retries = 0
        self._again = 0.0
        self._interval = LOOK_FIRST
        self._wake = asyncio.Event()

    # What the agent's loop asks.

    def want(self, env: EnvironmentRef, site: Site | None) -> None:
        """As ``Routes.want``."""
        if env in self._sites and self._sites[env] == site:
            return
        before = self._sites.get(env)
        if site is None and before is None and not any(key.env == env for key in self._places):
            self._sites.pop(env, None)
            return
        limit = site or before
        seconds = limit.drain_seconds if limit is not None else DEFAULT_DRAIN_SECONDS
        self._sites[env] = site
        self._places = endpoints.follow(self._places, env, site, seconds, time.monotonic())
        self._dirty.add(env)
        self._look_soon()

    def held(self, env: EnvironmentRef) -> Mapping[str, str]:
        """As ``Routes.held``. While no Envoy runs, nothing is."""
        return endpoints.held(self._places, env) if self._keeper.running or not self._keeper.looked else {}

    def status(self, env: EnvironmentRef) -> RouterStatus:
        """As ``Routes.status``."""
        return self._standing.of(self._sites.get(env))

    # Who tells of what happens.

    def engine_connected(self) -> None:
        """The engine answers again, perhaps another one."""
        self._keeper.look()

    def container_changed(self) -> None:
        """Something has happened to Envoy's container."""
        self._keeper.look()
        # One that has begun anew has yet to read everything.
        self._places = endpoints.anew(self._places)
        self._standing.restarted()
        self._listens = ""
        self._look_soon()

    async def load(self) -> None:
        """Take up what the last agent has left. OSError if the folder cannot be used."""
        await self._disk.run(self._folder.open)
        now = Now(time.monotonic(), time.time())
        for env, site, places in await self._disk.run(partial(self._folder.load, now)):
            self._sites[env] = site
            self._places.update(places)

    async def run(self) -> None:
        """Route until cancelled. Envoy goes on by itself afterwards."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keeper.run())
            group.create_task(self._loop())

    async def _loop(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_turn()):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._turn()
            except Exception as error:  # noqa: BLE001 - what routes must go on routing
                if isinstance(error, OSError):
                    _log.warning("the router's files cannot be written", error=str(error))
                else:
                    _log.exception("the router could not do its work")
                self._standing.trouble(f"the router's files cannot be written: {error}")
                self._tell()
                await asyncio.sleep(AFTER_TROUBLE_SECONDS)
                self._look_soon()

    async def _turn(self) -> None:
        if not self._keeper.looked:
            return
        await self._taken_over()
        self._places = endpoints.expire(self._places, time.monotonic())
        await self._write()
        if self._keeper.running:
            await self._look()
        elif not self._dirty:
            self._let_go(endpoints.without_draining(self._places))
        self._tell()

    async def _taken_over(self) -> None:
        """Once Envoy is seen to run, or to run no more: what it listens on is its own, or nobody's that we know."""
        if self._keeper.running != self._ran:
            if not (self._keeper.running and self._ran):
                running = self._keeper.running
                # One that we have just had started listens on what was found free for it.
                if not running:
                    self._rendering.ended()
                    self._listening.ours(())
                elif not self._listening.open:
                    self._listening.ours(await self._disk.run(self._folder.ports))
                    self._rendering.found(await self._disk.run(self._folder.count))
            self._ran = self._keeper.running
            self._standing.restarted()

    # From what is wanted to Envoy's files.

    async def _write(self) -> None:
        """Write what is another than it was, and have Envoy run if there is anything to route."""
        shown = [endpoints.shown(self._sites.get(env), env, self._places) for env in self._environments()]
        routing, conflicts = settle(site for site in shown if site is not None)
        listen = await self._listening.look(routing)
        self._standing.conflicts, self._standing.ports = conflicts, self._listening.problems
        refit = self._refit is not None and time.monotonic() >= self._refit
        if self._dirty or listen != self._listen or refit:
            await self._put(routing, listen)
        # One that runs waits for a port that it is to have.
        usable = listen.http_port or listen.https_port or (self._listening.any and self._keeper.running)
        self._keeper.want(self._envoy if routing.sites and usable else None)

    async def _put(self, routing: Routing, listen: Listen) -> None:
        dirty, self._dirty = self._dirty, set()
        now = Now(time.monotonic(), time.time())
        places, sites = dict(self._places), dict(self._sites)
        gone = {env for env in dirty if sites.get(env) is None and not any(key.env == env for key in places)}

        def write() -> Rendered:
            keep = {env: None if env in gone else files.to_bytes(env, sites.get(env), places, now) for env in dirty}
            rendered = self._rendering.render(routing, listen)
            ports = {listen.http_port, listen.https_port, listen.peer_port} - {0}
            self._folder.write(keep, rendered.files, ports)
            return rendered

        try:
            rendered = await self._disk.run(write)
        except BaseException:
            self._dirty |= dirty
            raise
        self._listen = listen
        for env in gone & self._sites.keys() - self._dirty:
            del self._sites[env]
        self._expected = rendered.expected
        self._standing.wrote(rendered.routing, rendered.told)
        self._refit = time.monotonic() + RETRY_CAP if rendered.told else None
        self._written, self._interval = time.monotonic(), LOOK_FIRST
        self._retries, self._again = 0, self._written + PATIENCE_SECONDS

    def _environments(self) -> set[EnvironmentRef]:
        return {*self._sites, *(key.env for key in self._places)}

    # From what Envoy says to what is held, and how each environment fares.

    async def _look(self) -> None:
        if not (endpoints.unsettled(self._places) or self._standing.unsettled(self._expected)):
            return
        # Another one may run by the time of the answer.
        running = self._keeper.running
        try:
            seen = await self._seen()
        except AdminSilent as silent:
            await self._silent(str(silent))
            return
        self._silent_since = None
        unused = self._standing.saw(seen, self._expected)
        known = not self._dirty and not any(path.startswith("rds/") for path in unused)

        def hosts(env: EnvironmentRef, service: str, port: str) -> Mapping[str, Host] | None:
            return seen.clusters.get(config.cluster_name(env, service, port))

        self._let_go(endpoints.observe(self._places, hosts, time.monotonic(), routes_known=known))
        self._standing.placed(self._unplaced())
        if not unused:
            self._keeper.confirm(running)
        elif time.monotonic() >= self._again:
            await self._once_more(unused)

    async def _seen(self) -> Seen:
        """What Envoy uses; requests are also those of one that is being replaced."""
        admins, running = self._keeper.admins, self._keeper.running
        if not admins:
            raise AdminSilent("Envoy does not run")
        seen = await admins[0].look()
        if self._listens != running:
            if not await admins[0].listens():
                raise AdminSilent("Envoy has not begun to listen")
            self._listens = running
        for other in admins[1:]:
            with suppress(AdminSilent):
                seen = endpoints.together(seen, await other.look())
        return seen

    async def _silent(self, problem: str) -> None:
        """Envoy does not answer: for a moment at its start, otherwise something is wrong with it."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > PATIENCE_SECONDS:
            said = await self._keeper.last_words()
            self._standing.silent(f"{problem}; it said last: {said}" if said else problem)

    async def _once_more(self, unused: frozenset[str]) -> None:
        """Envoy does not use what it was given: have it try again, and say why it does not."""
        with suppress(AdminSilent):
            self._standing.refused(
                await self._keeper.admins[0].refused() or f"it does not use {', '.join(sorted(unused))}"
            )
        await self._disk.run(partial(self._folder.again, sorted(unused)))
        self._retries += 1
        self._again = time.monotonic() + min(RETRY_CAP, PATIENCE_SECONDS * 2.0**self._retries)

    def _unplaced(self) -> frozenset[EnvironmentRef]:
        """Environments with an endpoint that Envoy does not use yet."""
        return frozenset(
            key.env for key, place in self._places.items() if not place.endpoint.draining and not place.known
        )

    def _let_go(self, after: dict[Key, Place]) -> None:
        gone = self._places.keys() - after.keys()
        self._dirty |= {key.env for key in gone}
        if gone:
            _log.info("endpoints drained", containers=sorted({key.container for key in gone}))
            self._look_soon()
        self._places = after

    def _tell(self) -> None:
        keeper = self._keeper
        self._standing.envoy(running=bool(keeper.running), problem=keeper.problem, failed=keeper.failed)
        for env in {*self._environments(), *self._told}:
            now = self.status(env), dict(self.held(env))
            if self._told.get(env) != now:
                self._told[env] = now
                self._changed(env)
            if env not in self._sites:
                self._told.pop(env, None)
        address = self._options.peer_address if self._standing.listens(self._options.peer_port) else ""
        if address != self._address:
            self._address = address
            self._reachable(address)

    def _look_soon(self) -> None:
        self._interval = LOOK_FIRST
        self._wake.set()

    def _next_turn(self) -> float | None:
        """When there is something to be done although nothing happens, on the loop's clock (which is the monotonic)."""
        if not self._keeper.looked:
            return None
        sites = Routing(tuple(filter(None, self._sites.values())))
        moments = [self._listening.next_look(sites), endpoints.first_limit(self._places), self._refit]
        now = time.monotonic()
        if self._keeper.running and (endpoints.unsettled(self._places) or self._standing.unsettled(self._expected)):
            moments.append(now + self._interval)
            rare = now - self._written > PATIENCE_SECONDS and endpoints.first_limit(self._places) is None
            self._interval = min(LOOK_PATIENT if rare else LOOK_CAP, self._interval * LOOK_FACTOR)
        return min((moment for moment in moments if moment is not None), default=None)
