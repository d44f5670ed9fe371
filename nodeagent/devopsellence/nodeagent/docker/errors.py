"""What can go wrong between the agent and the engine, in our own types. ``docker.py`` raises these ``from`` the SDK's.

Messages are whole sentences without the SDK's decoration: they reach the status and from there a person.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of everything here; by itself: the engine refused, and it is none of the below."""


class EngineUnavailable(EngineError):
    """The engine does not answer. Nothing is known about what it runs."""


class NotFound(EngineError):
    """The container or network is not there (any more)."""


class NetworkGone(NotFound):
    """The network that a container is to be started on is not there."""


class Conflict(EngineError):
    """The name is taken, or the object is in a state in which this cannot be done."""


class ImageNotAvailable(EngineError):
    """The image is not on this machine, or the registry does not give it."""


class EngineRefused(EngineError):
    """The engine or its runtime will not create or start this container as specified (such as: no such command)."""


class HalfStarted(EngineError):
    """The engine was ended while it started this container: it has no process of it, and can never start it again."""


class DiskFull(EngineError):
    """No space is left where the engine keeps its data."""
