"""Refusal of a request by the gateway, and its kinds."""

from __future__ import annotations

from enum import Enum, auto


class RefusalKind(Enum):
    """Kind of a refusal, which decides the status code of the answer."""

    #: The caller lacks a right.
    DENIED = auto()
    #: The request itself is not valid: a value that is no record, a range without an end.
    INVALID = auto()
    #: A part of etcd's API that the gateway does not serve.
    UNSUPPORTED = auto()
    #: The caller has used up a limit for now.
    EXHAUSTED = auto()
    #: The gateway cannot decide now; another gateway, or the same a moment later, may serve the request.
    NOT_NOW = auto()


class Refused(Exception):
    """A refused request; nothing was passed on to etcd. ``reason`` is a clause for the caller and the audit log."""

    def __init__(self, kind: RefusalKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def denied(reason: str) -> Refused:
    return Refused(RefusalKind.DENIED, reason)


def invalid(reason: str) -> Refused:
    return Refused(RefusalKind.INVALID, reason)


def unsupported(reason: str) -> Refused:
    return Refused(RefusalKind.UNSUPPORTED, reason)
