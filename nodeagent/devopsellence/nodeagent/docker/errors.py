"""Errors of the Docker Engine, raised by ``docker.client`` and ``docker.streams`` from the SDK's errors.

Messages are complete sentences without the SDK's decoration: a status shows them to operators.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base class of engine errors; by itself a refusal without a more specific class."""


class EngineUnavailable(EngineError):
    """The engine does not answer; the state of containers is unknown."""


class TimedOut(EngineError):
    """The engine has not answered a call in time; its outcome is unknown. Says nothing about other calls."""


class ContainerHung(EngineError):
    """The engine answers, but nothing about this container: its containerd-shim is stopped or stuck."""


class NotFound(EngineError):
    """The container or network does not exist (any more)."""


class NetworkGone(NotFound):
    """The network of a container to start does not exist."""


class Conflict(EngineError):
    """The name is in use, or the state of the object does not allow the call."""


class NamesInUse(Conflict):
    """Containers that this agent has not created have all names for a container."""


class ImageNotAvailable(EngineError):
    """The image is not on this node, or the registry refuses the pull."""


class EngineRefused(EngineError):
    """The engine or its runtime cannot create or start the container as specified, e.g. no such command."""


class HalfStarted(EngineError):
    """The engine restarted while starting this container: the container has no process and can never be started."""


class NoAddressPool(EngineError):
    """No subnet is left for another network."""


class DiskFull(EngineError):
    """No space left in the engine's data root."""


class LedgerNotWritten(DiskFull):
    """The record of this agent's containers cannot be written, so no container may be created."""
