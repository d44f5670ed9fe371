"""Access data of this node: addresses of the gateways and access of operators, read from etcd and kept on disk.

An agent whose configured gateways are all gone finds another, also directly after a start: it connects to the
configured addresses and to those that it has learned. A record that is missing or unusable changes nothing. The copy on
disk has the time at which a connection last confirmed it; once that is long ago, the log and the diagnosis say so.

Without a certificate the agent talks to etcd itself, and there is nothing to learn. Access of operators is in no record
that anybody could rely on then, so their certificates admit them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from devopsellence import clock
from devopsellence.access.policy import AccessPolicy
from devopsellence.api.v1.stored_pb2 import AccessCopy, Gateways
from devopsellence.clock import Now
from devopsellence.gateways import InvalidGateways, endpoints_with, gateway_addresses
from devopsellence.nodeagent.mirror import NodeContext
from devopsellence.nodeagent.operator_access import OperatorMirror
from devopsellence.store.informer import Informer
from devopsellence.store.record import Record
from devopsellence.store.settings import Settings

#: Age from which on the copy counts as old.
OLD_SECONDS: Final = 600.0
#: Time that a starting agent has to connect before it calls its copy old.
START_SECONDS: Final = 60.0
#: Interval of log lines about an old copy, and of writes that move the time of the confirmation on disk.
REPEAT_SECONDS: Final = 3600.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AccessState:
    """State of the access data. ``problem``: a sentence, "" for none. ``summary``: the state otherwise, as a clause.

    ``fix``: what to do about a problem.
    """

    problem: str
    summary: str
    fix: str


class AccessMirror:
    """Access data of one node; call :meth:`load`, then :meth:`run`. ``settings`` are those of the agent's options."""

    def __init__(self, context: NodeContext, settings: Settings, now: Callable[[], Now] = clock.now) -> None:
        self._context = context
        self._configured = settings.endpoints
        self._has_gateways = settings.cert is not None
        self._now = now
        self._endpoints = settings.endpoints
        self._gateways = Gateways()
        #: Monotonic time of the last confirmation, before the first one that of the start; None: never confirmed.
        self._confirmed: float | None = None
        self._started = now().mono
        #: Time of the last log line about the age.
        self._said: float | None = None
        #: Reason why the record in etcd cannot be used, with its revision, so that each is logged once.
        self._unusable = ""
        self._unusable_revision = 0
        self._unsaved = False
        self._saved = AccessCopy()
        self._wake = asyncio.Event()
        self._operators = OperatorMirror(context.etcd, self._operators_changed)
        self._on_policy: Callable[[], None] = lambda: None
        self._key = context.etcd.keys.gateways
        self._informer = Informer(context.etcd, self._key, Gateways, self._on_key, on_connection=self._connection)

    @property
    def policy(self) -> AccessPolicy | None:
        """Return the policy for operators; None without a certificate."""
        return self._operators.policy if self._has_gateways else None

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever :attr:`policy` is another."""
        self._on_policy = changed

    def state(self) -> AccessState:
        """Return the state for people."""
        if not self._has_gateways:
            return AccessState("", "this cluster has no certificates, so no gateways", "")
        if self._informer.connected:
            fix = f"delete {self._key}; the leading controller writes it again"
            return AccessState(self._unusable, f"gateways known: {len(self._gateways.addresses)}", fix)
        problem = "" if self._now().mono < self._old_at() else self._sentence()
        return AccessState(
            problem, f"the deny-list, the access of operators and the gateways are {self._age()}", self._fix()
        )

    async def load(self) -> None:
        """Load the copy on disk, and use its addresses from the first connection on."""
        if not self._has_gateways:
            return
        copy = await self._context.disk.run(self._context.folder.access)
        if copy is None:
            return
        self._operators.load(copy)
        try:
            self._use(copy.gateways)
        except InvalidGateways as error:
            _log.warning("the access data on disk cannot be used", error=str(error))
            return
        self._saved, self._unsaved = _without_time(copy), False
        if copy.HasField("confirmed_at"):
            # Never in the future: the clock may have been set back.
            now = self._now()
            self._confirmed = now.mono - max(0.0, now.wall - copy.confirmed_at.seconds)

    async def run(self) -> None:
        """Follow etcd and keep the copy until cancelled."""
        if not self._has_gateways:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            group.create_task(self._operators.run())
            while True:
                self._wake.clear()
                if self._unsaved:
                    await self._save()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._say()):
                        await self._wake.wait()
                if not self._wake.is_set():
                    # After an hour without news: only the time of the confirmation is another.
                    self._unsaved = self._informer.connected

    async def flush(self) -> None:
        """Write the time of the last confirmation, at a clean end."""
        if self._confirmed is not None:
            await self._save()

    def _on_key(self, key: str) -> None:
        record = self._informer.records.get(key)
        if record is None:
            return
        self._unusable = self._try(record)
        if self._unusable and record.mod_revision != self._unusable_revision:
            self._unusable_revision = record.mod_revision
            _log.warning("the addresses of the gateways stay as they were", reason=self._unusable)

    def _try(self, record: Record[Gateways]) -> str:
        """Use a record; return why that is not possible, "" if it is."""
        if record.message is None:
            return str(record.error)
        try:
            self._use(record.message)
        except InvalidGateways as error:
            return f"{record.key} cannot be used: {error}"
        return ""

    def _use(self, gateways: Gateways) -> None:
        """Connect to these gateways, too.

        Raises:
            InvalidGateways: nothing has changed.
        """
        endpoints = endpoints_with(self._configured, gateway_addresses(gateways))
        if gateways != self._gateways:
            self._gateways = gateways
            self._unsaved = True
            self._wake.set()
        if endpoints != self._endpoints:
            self._context.etcd.use_endpoints(endpoints)
            self._endpoints = endpoints
            _log.info("connecting to these gateways from now on", endpoints=",".join(endpoints))

    def _operators_changed(self) -> None:
        self._unsaved = True
        self._wake.set()
        self._on_policy()

    def _connection(self) -> None:
        """Note a contact: the connection is there, or was until now."""
        self._confirmed = self._now().mono
        self._said = None
        self._unsaved = True
        self._wake.set()

    def _say(self) -> float:
        """Log the age if it is time to; return the seconds until the next look."""
        if self._informer.connected:
            return REPEAT_SECONDS
        mono = self._now().mono
        due = self._old_at() if self._said is None else self._said + REPEAT_SECONDS
        if mono < due:
            return due - mono
        self._said = mono
        _log.warning("the access data is old", problem=self._sentence(), fix=self._fix())
        return REPEAT_SECONDS

    def _old_at(self) -> float:
        since = self._started if self._confirmed is None else self._confirmed
        return max(since + OLD_SECONDS, self._started + START_SECONDS)

    def _sentence(self) -> str:
        return f"the deny-list, the access of operators and the gateways are {self._age()}: {self._informer.problem}"

    def _fix(self) -> str:
        return f"make a gateway reachable from this node: {', '.join(self._endpoints)}; services keep running meanwhile"

    def _age(self) -> str:
        if self._confirmed is None:
            return "unknown, none has answered yet"
        return f"as of {_span(self._now().mono - self._confirmed)} ago"

    async def _save(self) -> None:
        self._unsaved = False
        now = self._now()
        if self._informer.connected:
            self._confirmed = now.mono
        copy = AccessCopy(gateways=self._gateways)
        self._operators.save(copy)
        if self._confirmed is not None:
            copy.confirmed_at.FromSeconds(int(now.wall - (now.mono - self._confirmed)))
        # A slightly older time after a crash is of no consequence, an older address or right is.
        saved = _without_time(copy)
        write = partial(self._context.folder.save_access, copy, sync=saved != self._saved)
        try:
            await self._context.disk.run(write)
        except OSError as error:
            # ``state_keeper`` repeats the write.
            _log.error("the access data could not be kept on disk", error=str(error))
        else:
            self._saved = saved


def _without_time(copy: AccessCopy) -> AccessCopy:
    records = AccessCopy()
    records.CopyFrom(copy)
    records.ClearField("confirmed_at")
    return records


def _span(seconds: float) -> str:
    """Return a duration in words: minutes, hours, from two days on days."""
    minutes = int(seconds // 60)
    for size, unit in ((1440, "days"), (60, "hours")):
        if minutes >= 2 * size:
            return f"{minutes // size} {unit}"
    return f"{minutes} minute{'' if minutes == 1 else 's'}"
