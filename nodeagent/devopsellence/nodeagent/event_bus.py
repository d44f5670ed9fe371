"""Signals from the engine, the router and the mirrors of etcd to the rest of the agent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, ParamSpec

from devopsellence.nodeagent.docker.engine import EngineCallbacks
from devopsellence.nodeagent.envoy.model import PeerTls
from devopsellence.store.keys import EnvironmentRef

P = ParamSpec("P")


class Signal(Generic[P]):
    """Callbacks for one kind of change, called in the order of subscription."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[P, None]] = []

    def subscribe(self, callback: Callable[P, None]) -> None:
        """Call ``callback`` at every later :meth:`emit`."""
        self._callbacks.append(callback)

    def emit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call every subscriber, on the caller's thread."""
        for callback in self._callbacks:
            callback(*args, **kwargs)


class EventBus:
    """Signals of one agent, all emitted on the event loop.

    The bus is made first, so every component can emit to subscribers created later.
    """

    def __init__(self) -> None:
        #: The containers or requests of an environment changed; argument: its path.
        self.environment_changed: Signal[[str]] = Signal()
        #: The engine has a new image.
        self.image_arrived: Signal[[]] = Signal()
        #: ``connected`` or ``problem`` of the engine changed.
        self.connection_changed: Signal[[]] = Signal()
        #: The container of the router changed.
        self.router_container_changed: Signal[[]] = Signal()
        #: A network of the engine, of this agent or not, was created or removed.
        self.networks_changed: Signal[[]] = Signal()
        #: The address for requests from the routers of other nodes; empty while there is none.
        self.router_address_changed: Signal[[str]] = Signal()
        #: TLS towards the routers of other nodes is to be another.
        self.peer_tls_changed: Signal[[PeerTls]] = Signal()
        #: The router uses what was announced with ``peer_tls_changed``.
        self.peer_tls_used: Signal[[PeerTls]] = Signal()
        #: The assignment of an environment changed.
        self.assignment_changed: Signal[[EnvironmentRef]] = Signal()
        #: etcd was read for the first time; argument: all environments with an assignment.
        self.assignments_listed: Signal[[frozenset[EnvironmentRef]]] = Signal()
        #: The ingress parts of an environment changed.
        self.node_ingress_changed: Signal[[EnvironmentRef]] = Signal()
        #: Why the agent's folder cannot be written changed; argument: the sentence, empty if it can be.
        self.folder_problem_changed: Signal[[str]] = Signal()
        #: Files of the agent's folder that somebody had damaged are as before; argument: their paths.
        self.files_restored: Signal[[list[Path]]] = Signal()

    def engine_callbacks(self) -> EngineCallbacks:
        """Return the callbacks of an engine: each emits the signal of the same meaning."""
        return EngineCallbacks(
            changed=self.environment_changed.emit,
            image=self.image_arrived.emit,
            connection=self.connection_changed.emit,
            router=self.router_container_changed.emit,
            networks=self.networks_changed.emit,
        )
