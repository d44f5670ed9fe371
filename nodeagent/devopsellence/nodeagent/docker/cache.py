"""Cache of the containers and networks on the engine, kept true by engine events and the agent's own calls. Pure.

The agent lists everything only on (re)connecting, once a minute, and in doubt. In between, the result of each call goes
into the cache and each engine event is applied. Results and events about the same container arrive in any order, so
every rule gives the same end state for either order:

- an exit overrules every answer that was asked for before the exit's event arrived (the engine's timestamps decide
  nothing: its clock may be set back between an exit and a start);
- the id of a removed container never comes back, because ids are never reused;
- a listing does not undo news that came after the listing was requested.

Containers of somebody else with the agent's labels or names (``docker.ownership``) are kept apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerSettings,
    ContainerState,
    EngineEvent,
    EngineListing,
    ForeignContainer,
    Network,
    NetworkAttachment,
)

#: Remembered ids of destroyed containers: more than can be destroyed during a single call.
_MAX_REMOVED: Final = 1000
_ZERO_TIME: Final = "0001-"
#: Spellings that Docker accepts.
_NO_NEW_PRIVILEGES: Final = frozenset({"no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"})


def parse_listed(entry: Mapping[str, Any]) -> Container:
    """Return the container of an entry of ``GET /containers/json`` (API 1.41); start and exit times are missing
    there."""
    container_names = entry.get("Names") or [""]
    return _container(
        entry["Id"],
        str(container_names[0]).lstrip("/"),
        entry.get("Labels") or {},
        str(entry.get("Image", "")),
        str(entry["State"]),
        entry.get("NetworkSettings") or {},
        str(entry.get("ImageID", "")),
        entry.get("Mounts") or (),
    )


def parse_inspected(document: Mapping[str, Any], running_since: float) -> Container:
    """Return the container of ``GET /containers/<id>/json`` (API 1.41). ``running_since``: monotonic seconds of this
    machine, used if it runs."""
    config, state = document["Config"], document["State"]
    container = _container(
        document["Id"],
        str(document["Name"]).lstrip("/"),
        config.get("Labels") or {},
        str(config.get("Image", "")),
        str(state["Status"]),
        document.get("NetworkSettings") or {},
        str(document.get("Image", "")),
        document.get("Mounts") or (),
    )
    started, finished = str(state.get("StartedAt", "")), str(state.get("FinishedAt", ""))
    return replace(
        container,
        running_since=running_since if container.up else 0.0,
        started_at="" if started.startswith(_ZERO_TIME) else started,
        finished_at="" if container.up or finished.startswith(_ZERO_TIME) else finished,
        exit_code=int(state.get("ExitCode", 0)) if container.state is ContainerState.EXITED else None,
        settings=_settings(
            document.get("HostConfig") or {}, config.get("Labels") or {}, is_restarting=bool(state.get("Restarting"))
        ),
    )


@dataclass(frozen=True, slots=True)
class EventEffect:
    """Consequence of an engine event. ``environment``: to reconcile. ``inspect``: container to inspect. ``image``:
    an image has arrived."""

    environment: str = ""
    inspect: str = ""
    image: bool = False


class ContainerCache:
    """Containers and networks of this agent on the engine. Not thread-safe: lives on the event loop."""

    def __init__(self) -> None:
        self._containers: dict[str, Container] = {}
        self._networks: dict[str, Network] = {}
        self._foreign: dict[str, ForeignContainer] = {}
        self._stamps: dict[str, int] = {}
        #: By container: stamp and arrival time (monotonic) of the last exit event.
        self._died: dict[str, tuple[int, float]] = {}
        self._removed: deque[str] = deque(maxlen=_MAX_REMOVED)
        self._clock = 0
        self._watchers: set[Callable[[], None]] = set()

    @property
    def containers(self) -> Mapping[str, Container]:
        return self._containers

    @property
    def foreign(self) -> Mapping[str, ForeignContainer]:
        """Containers of somebody else with labels or a name of this agent, by id."""
        return self._foreign

    def foreign_of(self, environment: str) -> tuple[ForeignContainer, ...]:
        """Return the foreign containers that concern an environment, sorted by name."""
        concerning = (known for known in self._foreign.values() if known.environment == environment)
        return tuple(sorted(concerning, key=lambda known: known.name))

    @contextmanager
    def watched(self, watcher: Callable[[], None]) -> Iterator[None]:
        """Call ``watcher`` on every change within the block. The watcher must not read the cache at once, because the
        change is not stored yet."""
        self._watchers.add(watcher)
        try:
            yield
        finally:
            self._watchers.discard(watcher)

    @property
    def environments(self) -> set[str]:
        """Environments with a container or network on this node."""
        return {container.environment for container in self._containers.values()} | {
            network.environment for network in self._networks.values()
        }

    def of(self, environment: str, network: str) -> tuple[tuple[Container, ...], Network | None]:
        """Return the containers of an environment, and the environment's network or None."""
        containers = tuple(container for container in self._containers.values() if container.environment == environment)
        candidates = (
            known for known in self._networks.values() if known.environment == environment and known.name == network
        )
        return containers, min(candidates, key=lambda candidate: candidate.id, default=None)

    def stamp(self) -> int:
        """Return the current stamp: take a stamp before requesting a listing, and pass both to :meth:`replace`."""
        return self._clock

    def stamp_of(self, identity: str) -> int:
        """Return the stamp of the last change of a container or network."""
        return self._stamps.get(identity, 0)

    def replace(self, listing: EngineListing, stamp: int) -> tuple[set[str], set[str]]:
        """Apply a listing, except to entries changed after ``stamp``.

        Returns the environments concerned, and the ids of running containers to inspect, because a listing lacks start
        times.
        """
        concerned, unknown = self.environments, set()
        for foreign in listing.foreign:
            if self._stamps.get(foreign.id, 0) <= stamp and self._foreign.get(foreign.id) != foreign:
                self.put_foreign(foreign)
                concerned |= {foreign.environment} if foreign.environment else set()
        present = {foreign.id for foreign in listing.foreign}
        for identity in [identity for identity in self._foreign if identity not in present]:
            if self._stamps.get(identity, 0) <= stamp:
                environment = self._foreign[identity].environment
                concerned |= {environment} if environment else set()
                self._forget(identity)
        listed: dict[str, Container | Network] = {}
        listed.update({container.id: container for container in listing.containers})
        listed.update({network.id: network for network in listing.networks})
        for identity in [*self._containers, *self._networks]:
            if identity not in listed and self._stamps.get(identity, 0) <= stamp:
                self._forget(identity)
        for identity, entry in listed.items():
            if self._stamps.get(identity, 0) > stamp:
                continue
            known = self._containers.get(identity)
            if (
                isinstance(entry, Container)
                and known is not None
                and (known.up, known.state) == (entry.up, entry.state)
            ):
                # An inspection says more than a listing; only name and networks can change without an event.
                self.put(replace(known, name=entry.name, networks=entry.networks))
            elif isinstance(entry, Container) and entry.up:
                unknown.add(entry.id)
            else:
                self.put(entry)
        return concerned | self.environments, unknown

    def put_foreign(self, container: ForeignContainer) -> None:
        """Store a container of somebody else."""
        if container.id not in self._removed and self._foreign.get(container.id) != container:
            self._forget(container.id)
            self._touch(container.id)
            self._foreign[container.id] = container

    def drop_foreign(self, container: str) -> None:
        """Drop a container of somebody else that has none of the agent's names or labels any more."""
        if container in self._foreign:
            self._forget(container)

    def put(self, item: Container | Network, asked: int | None = None) -> None:
        """Store the state of a container or network, as returned by a call.

        ``asked``: stamp taken before the call (:meth:`stamp`); None: the state is that of this moment.
        """
        if item.id in self._removed:
            return
        self._touch(item.id)
        self._foreign.pop(item.id, None)
        if isinstance(item, Network):
            self._networks[item.id] = item
            return
        item = _with_history(item, self._containers.get(item.id))
        died, at = self._died.get(item.id, (0, 0.0))
        if item.up and asked is not None and died > asked:
            item = _ended(item, at)
        self._containers[item.id] = item

    def remove(self, identity: str) -> None:
        """Remove a container or network for good."""
        self._forget(identity)
        self._removed.append(identity)

    def mark_exited(self, container: str, at: float) -> None:
        """Mark a container as exited at ``at`` (monotonic), after a stop call of the agent has waited for the exit."""
        known = self._containers.get(container)
        if known is not None and known.up:
            self._touch(container)
            self._containers[container] = _ended(known, at)

    def apply(self, event: EngineEvent) -> EventEffect:
        """Apply an engine event and return its consequence."""
        if event.kind == "image":
            return EventEffect(image=True)
        if event.kind == "network":
            return self._network(event)
        if foreign := self._foreign.get(event.id):
            if event.action == "destroy":
                self.remove(event.id)
                return EventEffect(environment=foreign.environment)
            return EventEffect(inspect=event.id if event.action == "rename" else "")
        known = self._containers.get(event.id)
        environment = event.attributes.get(names.LABEL_ENVIRONMENT, "")
        if event.action == "destroy":
            self.remove(event.id)
            return EventEffect(environment=known.environment if known else "")
        if event.action == "die":
            return self._die(event, known)
        settled = known is not None and (event.action == "create" or (event.action == "start" and known.up))
        return EventEffect() if settled or not environment else EventEffect(inspect=event.id)

    def _die(self, event: EngineEvent, known: Container | None) -> EventEffect:
        # At worst this is the late event of an earlier run: the exit is examined next, with a call asked for after it.
        self._clock += 1
        self._died[event.id] = (self._clock, event.time)
        if known is None or not known.up:
            return EventEffect()
        self._touch(event.id)
        self._containers[event.id] = _ended(known, event.time)
        return EventEffect(environment=known.environment)

    def _network(self, event: EngineEvent) -> EventEffect:
        network = self._networks.get(event.id)
        if network is None:
            return EventEffect()
        if event.action == "destroy":
            self.remove(event.id)
            return EventEffect(environment=network.environment)
        container = self._containers.get(event.attributes.get("container", ""))
        # Starts and exits cause network events too; only those of a running container say anything new.
        return EventEffect(inspect=container.id) if container is not None and container.up else EventEffect()

    def _touch(self, identity: str) -> None:
        self._clock += 1
        self._stamps[identity] = self._clock
        for watcher in self._watchers:
            watcher()

    def _forget(self, identity: str) -> None:
        for table in (self._containers, self._networks, self._foreign, self._stamps, self._died):
            table.pop(identity, None)


def _container(
    identity: str,
    name: str,
    labels: Mapping[str, str],
    image: str,
    state: str,
    network_settings: Mapping[str, Any],
    image_id: str,
    mounts: Iterable[Mapping[str, Any]],
) -> Container:
    release = labels.get(names.LABEL_RELEASE, "")
    return Container(
        id=identity,
        name=name,
        environment=labels.get(names.LABEL_ENVIRONMENT, ""),
        service=labels.get(names.LABEL_SERVICE, ""),
        hash=labels.get(names.LABEL_HASH, ""),
        release=int(release) if release.isascii() and release.isdigit() else 0,
        image=image,
        state=_state(state),
        networks={
            network: NetworkAttachment(str(attachment.get("NetworkID") or ""), str(attachment.get("IPAddress") or ""))
            for network, attachment in (network_settings.get("Networks") or {}).items()
        },
        task=labels.get(names.LABEL_TASK, ""),
        depends_on=tuple(filter(None, labels.get(names.LABEL_DEPENDS_ON, "").split(","))),
        one_off=bool(labels.get(names.LABEL_ONE_OFF)),
        ports=names.parse_ports(labels[names.LABEL_PORTS]) if names.LABEL_PORTS in labels else None,
        volumes={
            str(mount.get("Destination")): str(mount.get("Name")) for mount in mounts if mount.get("Type") == "volume"
        },
        image_id=image_id,
        labels=names.own_labels(labels),
    )


def _state(state: str) -> ContainerState:
    # "restarting" belongs to the engine's own restart policy, which the agent resets (``ContainerSettings``).
    if state == "restarting":
        return ContainerState.RUNNING
    # A state that only a newer engine knows: leave the container alone until its state changes.
    return ContainerState(state) if state in set(ContainerState) else ContainerState.REMOVING


def _settings(host: Mapping[str, Any], labels: Mapping[str, str], *, is_restarting: bool) -> ContainerSettings:
    policy = str((host.get("RestartPolicy") or {}).get("Name") or "no")
    dropped = {str(capability).upper().removeprefix("CAP_") for capability in host.get("CapDrop") or ()}
    defaults = labels.get(names.LABEL_DEFAULTS, "")
    return ContainerSettings(
        engine_restarts=policy != "no" or is_restarting,
        memory=int(host.get("Memory") or 0),
        nano_cpus=int(host.get("NanoCpus") or 0),
        # Docker writes no limit as null, 0 or -1.
        pids=max(0, int(host.get("PidsLimit") or 0)),
        new_privileges=not _NO_NEW_PRIVILEGES.intersection(host.get("SecurityOpt") or ()),
        net_raw=dropped.isdisjoint({"NET_RAW", "ALL"}),
        defaults=int(defaults) if defaults.isascii() and defaults.isdigit() else 0,
    )


def _with_history(container: Container, known: Container | None) -> Container:
    """Return a container with what is known about the same run of it, or of it while no listing or call says more."""
    if known is None:
        return container
    container = replace(container, settings=container.settings or known.settings)
    if not container.start_key or container.start_key != known.start_key:
        return container
    if container.up:
        return replace(container, running_since=known.running_since if known.up else container.running_since)
    return replace(container, ran=known.ran)


def _ended(container: Container, at: float) -> Container:
    networks = {name: replace(attachment, address="") for name, attachment in container.networks.items()}
    return replace(
        container,
        state=ContainerState.EXITED,
        running_since=0.0,
        finished_at="",
        networks=networks,
        ran=max(0.0, at - container.running_since) if container.running_since else None,
    )
