"""Audit log: a line for each write, grant and refusal, with the caller and the keys, never a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from devopsellence.controller.gateway.rules.grants import KeyRange
from devopsellence.controller.gateway.rules.limits import Rate, TokenBucket
from devopsellence.controller.gateway.rules.refusal import Refused

_log = structlog.get_logger("gateway")
_SHOWN_KEYS: Final = 5
_LONGEST_TEXT: Final = 300
#: Refusals of one caller that are logged: a caller that is refused in a loop must not fill the log.
_REFUSALS: Final = Rate(50, 0.2)


class AuditLog:
    """Audit log of one gateway."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        self._dropped: dict[str, int] = {}

    def written(self, identity: str, method: str, keys: Sequence[KeyRange], outcome: str) -> None:
        """Log a write that was passed on to etcd."""
        shown = [str(key)[:_LONGEST_TEXT] for key in keys[:_SHOWN_KEYS]]
        more = {"more_keys": len(keys) - _SHOWN_KEYS} if len(keys) > _SHOWN_KEYS else {}
        _log.info("written", caller=identity, method=method, keys=shown, outcome=outcome, **more)

    def failed(self, identity: str, method: str, code: str, reason: str) -> None:
        """Log a call that etcd refused or did not answer; an unanswered write may have happened."""
        _log.info("failed", caller=identity, method=method, code=code, reason=reason[:_LONGEST_TEXT])

    def read(self, identity: str, method: str) -> None:
        """Log a read or a watch, for debugging."""
        _log.debug("read", caller=identity, method=method)

    def refused(self, identity: str, method: str, refused: Refused, now: float) -> None:
        """Log a refusal, or count it if too many of this caller's were logged."""
        bucket = self._buckets.setdefault(identity, TokenBucket(_REFUSALS, now))
        if not bucket.has(1, now):
            self._dropped[identity] = self._dropped.get(identity, 0) + 1
            return
        bucket.take(1)
        dropped = self._dropped.pop(identity, 0)
        more = {"not_logged": dropped} if dropped else {}
        reason = refused.reason[:_LONGEST_TEXT]
        _log.warning("refused", caller=identity, method=method, kind=refused.kind.name.lower(), reason=reason, **more)
