"""The engine as last seen: a cache that the engine's events and the agent's own calls keep true. Pure.

The engine is asked for everything only when the agent (re)connects to it, now and then, and on doubt. In between each
call of the agent puts its result here, and each event of the engine is applied. Both tell of the same things in an
order that nobody guarantees, so every rule here gives the same end whichever comes first:

- a container that has died stays dead until it is seen started after that, on the engine's own clock;
- an id that was destroyed does not come back, because ids are never used twice;
- a listing does not undo what was learnt after it had been asked for.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from devopsellence.clock import Now
from devopsellence.nodeagent.docker import names as naming
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerState,
    EngineEvent,
    EngineListing,
    Network,
    NetworkAttachment,
)

#: Ids of destroyed containers that are remembered: more than can be destroyed while one call is under way.
_REMEMBERED: Final = 1000
_ZERO_TIME: Final = "0001-"


def parse_listed(entry: Mapping[str, Any]) -> Container:
    """From one entry of ``GET /containers/json`` (API 1.41), which does not tell when it started or ended."""
    names = entry.get("Names") or [""]
    return _container(
        entry["Id"],
        str(names[0]).lstrip("/"),
        entry.get("Labels") or {},
        str(entry.get("Image", "")),
        str(entry["ContainerState"]),
        entry.get("NetworkSettings") or {},
    )


def parse_inspected(document: Mapping[str, Any], now: Now) -> Container:
    """From ``GET /containers/<id>/json`` (API 1.41)."""
    config, state = document["Config"], document["ContainerState"]
    container = _container(
        document["Id"],
        str(document["Name"]).lstrip("/"),
        config.get("Labels") or {},
        str(config.get("Image", "")),
        str(state["Status"]),
        document.get("NetworkSettings") or {},
    )
    started, finished = str(state.get("StartedAt", "")), str(state.get("FinishedAt", ""))
    age = max(0.0, now.wall - epoch(started)) if started else 0.0
    return replace(
        container,
        running_since=now.mono - age if container.up else 0.0,
        started_at="" if started.startswith(_ZERO_TIME) else started,
        finished_at="" if container.up or finished.startswith(_ZERO_TIME) else finished,
        exit_code=int(state.get("ExitCode", 0)) if container.state is ContainerState.EXITED else None,
    )


def epoch(timestamp: str) -> float:
    """Seconds since the epoch of one of the engine's timestamps (RFC 3339, up to nanoseconds); 0 for none."""
    if not timestamp or timestamp.startswith(_ZERO_TIME):
        return 0.0
    return datetime.datetime.fromisoformat(timestamp).timestamp()


@dataclass(frozen=True, slots=True)
class EventEffect:
    """What an event means: the environment to look at again, the container to inspect, an image that has arrived."""

    env: str = ""
    inspect: str = ""
    image: bool = False


class ContainerCache:
    """All of our containers and networks on the engine. Not for threads: lives on the event loop."""

    def __init__(self) -> None:
        self._containers: dict[str, Container] = {}
        self._networks: dict[str, Network] = {}
        self._stamps: dict[str, int] = {}
        self._died: dict[str, float] = {}
        self._gone: deque[str] = deque(maxlen=_REMEMBERED)
        self._clock = 0
        self._watchers: set[Callable[[], None]] = set()

    @property
    def containers(self) -> Mapping[str, Container]:
        return self._containers

    @contextmanager
    def watched(self, watcher: Callable[[], None]) -> Iterator[None]:
        """Within the block ``watcher`` is called whenever something is learnt; it may not look at the view by itself,
        because what was learnt is not in it yet."""
        self._watchers.add(watcher)
        try:
            yield
        finally:
            self._watchers.discard(watcher)

    @property
    def environments(self) -> set[str]:
        """Every environment that has something here."""
        return {container.env for container in self._containers.values()} | {
            network.env for network in self._networks.values()
        }

    def of(self, env: str, network: str) -> tuple[tuple[Container, ...], Network | None]:
        """The containers of an environment, and its network if it is there."""
        containers = tuple(container for container in self._containers.values() if container.env == env)
        networks = (each for each in self._networks.values() if each.env == env and each.name == network)
        return containers, min(networks, key=lambda each: each.id, default=None)

    def stamp(self) -> int:
        """To be taken before a listing is asked for, and handed to :meth:`replace` with it."""
        return self._clock

    def stamp_of(self, identity: str) -> int:
        """Changes whenever something is learnt about a container or network."""
        return self._stamps.get(identity, 0)

    def replace(self, listing: EngineListing, stamp: int) -> tuple[set[str], set[str]]:
        """Take over a listing, except where something was learnt after ``stamp``.

        Returns the environments concerned, and the containers that must be inspected because a listing does not tell
        since when they run.
        """
        concerned, unknown = self.environments, set()
        listed: dict[str, Container | Network] = {}
        listed.update({container.id: container for container in listing.containers})
        listed.update({network.id: network for network in listing.networks})
        for gone in [*self._containers, *self._networks]:
            if gone not in listed and self._stamps.get(gone, 0) <= stamp:
                self._forget(gone)
        for identity, each in listed.items():
            if self._stamps.get(identity, 0) > stamp:
                continue
            known = self._containers.get(identity)
            if isinstance(each, Container) and known is not None and (known.up, known.state) == (each.up, each.state):
                # What was inspected is worth more; only these can have changed without an event.
                self.put(replace(known, name=each.name, networks=each.networks))
            elif isinstance(each, Container) and each.up:
                unknown.add(each.id)
            else:
                self.put(each)
        return concerned | self.environments, unknown

    def put(self, seen: Container | Network) -> None:
        """What a call has shown of a container or a network."""
        if seen.id in self._gone:
            return
        self._touch(seen.id)
        if isinstance(seen, Network):
            self._networks[seen.id] = seen
            return
        if seen.up and self._died.get(seen.id, 0.0) > epoch(seen.started_at):
            seen = _ended(seen)
        self._containers[seen.id] = seen

    def remove(self, gone: str) -> None:
        """A container or a network is no longer there."""
        self._forget(gone)
        self._gone.append(gone)

    def mark_exited(self, container: str) -> None:
        """A container has ended, by a call of ours that has waited for it."""
        known = self._containers.get(container)
        if known is not None and known.up:
            self._touch(container)
            self._containers[container] = _ended(known)

    def apply(self, event: EngineEvent) -> EventEffect:
        """Take over an event."""
        if event.kind == "image":
            return EventEffect(image=True)
        if event.kind == "network":
            return self._network(event)
        known = self._containers.get(event.id)
        env = event.attributes.get(naming.LABEL_ENVIRONMENT, "")
        if event.action == "destroy":
            self.remove(event.id)
            return EventEffect(env=known.env if known else "")
        if event.action == "die":
            return self._die(event, known)
        settled = known is not None and (event.action == "create" or (event.action == "start" and known.up))
        return EventEffect() if settled or not env else EventEffect(inspect=event.id)

    def _die(self, event: EngineEvent, known: Container | None) -> EventEffect:
        self._died[event.id] = event.time
        if known is None or not known.up or event.time < epoch(known.started_at):
            return EventEffect()
        self._touch(event.id)
        self._containers[event.id] = _ended(known)
        return EventEffect(env=known.env)

    def _network(self, event: EngineEvent) -> EventEffect:
        network = self._networks.get(event.id)
        if network is None:
            return EventEffect()
        if event.action == "destroy":
            self.remove(event.id)
            return EventEffect(env=network.env)
        container = self._containers.get(event.attributes.get("container", ""))
        # Starting and ending brings these as well; only on one that is known to run do they tell anything new.
        return EventEffect(inspect=container.id) if container is not None and container.up else EventEffect()

    def _touch(self, changed: str) -> None:
        self._clock += 1
        self._stamps[changed] = self._clock
        for watcher in self._watchers:
            watcher()

    def _forget(self, gone: str) -> None:
        for table in (self._containers, self._networks, self._stamps, self._died):
            table.pop(gone, None)


def _container(
    identity: str, name: str, labels: Mapping[str, str], image: str, state: str, network_settings: Mapping[str, Any]
) -> Container:
    release = labels.get(naming.LABEL_RELEASE, "")
    return Container(
        id=identity,
        name=name,
        env=labels.get(naming.LABEL_ENVIRONMENT, ""),
        service=labels.get(naming.LABEL_SERVICE, ""),
        hash=labels.get(naming.LABEL_HASH, ""),
        release=int(release) if release.isascii() and release.isdigit() else 0,
        image=image,
        state=_state(state),
        networks={
            network: NetworkAttachment(str(place.get("NetworkID") or ""), str(place.get("IPAddress") or ""))
            for network, place in (network_settings.get("Networks") or {}).items()
        },
        task=labels.get(naming.LABEL_TASK, ""),
        depends_on=tuple(filter(None, labels.get(naming.LABEL_DEPENDS_ON, "").split(","))),
        one_off=naming.LABEL_ONE_OFF in labels,
        ports=naming.parse_ports(labels[naming.LABEL_PORTS]) if naming.LABEL_PORTS in labels else None,
    )


def _state(state: str) -> ContainerState:
    # "restarting" is of the engine's own restart policy, which our containers do not have.
    if state == "restarting":
        return ContainerState.RUNNING
    # A word that a later engine may use: hands off until it is another.
    return ContainerState(state) if state in set(ContainerState) else ContainerState.REMOVING


def _ended(container: Container) -> Container:
    networks = {name: replace(place, address="") for name, place in container.networks.items()}
    return replace(container, state=ContainerState.EXITED, running_since=0.0, finished_at="", networks=networks)
