"""End of a container in words, and its last output: the same in every status, event and message. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from devopsellence.api.v1.stored_pb2 import ServiceStatus

#: Exit code of a process ended by SIGKILL (128 + 9), as the kernel ends one for lack of memory.
KILLED: Final = 137


def describe_exit(code: int, *, oom_killed: bool) -> str:
    """Return the end of a container in words: ``exit code 3``.

    Docker's ``OOMKilled`` is about all processes of a container: one that was killed need not be the one whose end is
    reported.
    """
    if not oom_killed:
        return f"exit code {code}"
    if code == KILLED:
        return f"exit code {code}, out of memory"
    return f"exit code {code}, one of its processes ran out of memory"


def describe_end(code: int, *, oom_killed: bool) -> str:
    """Return the same as a predicate: ``ended with exit code 3``."""
    if not oom_killed:
        return f"ended with exit code {code}"
    if code == KILLED:
        return f"ran out of memory (exit code {code})"
    return f"ended with exit code {code} (one of its processes ran out of memory)"


def is_last_failure_an_exit(service: ServiceStatus) -> bool:
    """Return True unless a container was found unhealthy since the last exit."""
    if not service.HasField("last_unhealthy"):
        return True
    ended, unhealthy = service.last_exit.finished_at, service.last_unhealthy.at
    return service.HasField("last_exit") and ended.ToNanoseconds() > unhealthy.ToNanoseconds()


def last_output(service: ServiceStatus) -> Sequence[str]:
    """Return the last lines of the last container of a service that failed: ended by itself, or found unhealthy."""
    return (service.last_exit if is_last_failure_an_exit(service) else service.last_unhealthy).log_lines
