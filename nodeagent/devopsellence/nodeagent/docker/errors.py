"""Errors of the Docker Engine, and their translation from the errors of the SDK.

Messages are complete sentences without the SDK's decoration: a status shows them to operators.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import requests
import urllib3.exceptions
from docker.errors import APIError, DockerException, ImageNotFound

#: Timeout of a call. Most answers take milliseconds, a start a third of a second, on a busy machine several seconds.
CALL_SECONDS: Final = 60
#: Refusals of another network: by the Docker Engine up to 26 (status 404), from 27, and where routes leave no room.
_NO_ADDRESS_POOL: Final = re.compile(
    r"non-overlapping IPv4 address pool|predefined address pools have been fully|an available predefined network"
)
#: Error of a container whose start was cut off by an engine restart: containerd still has a task, or a shim's
#: folder, of the same id.
_HALF_STARTED: Final = re.compile(
    r"\btask [0-9a-f]{64}:? already exists|\bfailed to start shim: mkdir \S+/[0-9a-f]{64}: file exists"
)


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


@contextmanager
def translated(refusal: type[EngineError] = EngineError) -> Iterator[None]:
    """Raise errors of the SDK within the block as those of this module; ``refusal`` is the default for a refusal."""
    try:
        yield
    except ImageNotFound as error:
        raise ImageNotAvailable(_message(error)) from error
    except APIError as error:
        message = _message(error)
        if error.status_code == 404 and message.startswith("network "):
            raise NetworkGone(message) from error
        if _NO_ADDRESS_POOL.search(message):
            raise NoAddressPool(message) from error
        if error.status_code == 404:
            raise NotFound(message) from error
        if _HALF_STARTED.search(message):
            raise HalfStarted(message) from error
        if error.status_code == 409:
            raise Conflict(message) from error
        raise refusal_of(message, refusal) from error
    except (OSError, requests.RequestException, urllib3.exceptions.HTTPError, DockerException) as error:
        if _is_timeout(error):
            raise TimedOut(f"the Docker Engine has not answered this call for {CALL_SECONDS} s") from error
        raise EngineUnavailable(f"the Docker Engine does not answer: {error}") from error


def _is_timeout(error: BaseException | None) -> bool:
    """Return True if the connection stands and no answer came, rather than that the connection broke."""
    while error is not None:
        if isinstance(error, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)):
            return True
        error = error.__cause__ or error.__context__
    return False


def refusal_of(message: str, kind: type[EngineError]) -> EngineError:
    """Return the error for a refusal with ``message``: DiskFull where that is the reason, else ``kind``."""
    return DiskFull(message) if "no space left on device" in message else kind(message)


def _message(error: APIError) -> str:
    return str(error.explanation or error).strip().removesuffix(": unknown")
