"""Audit of calls: an entry and a log line for each write, read of secrets and refusal; never a value.

Entries are of operators, root and controllers, and of refusals to anybody. What nodes write, their reports and leases,
has log lines alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from google.protobuf.message import Message

from devopsellence.agent_identity import is_node
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import CallSource, RefusalBudget
from devopsellence.controller.gateway.audit.describe import (
    Description,
    describe_reads,
    describe_request,
    describe_writes,
    secret_ranges,
)
from devopsellence.controller.gateway.audit.trail import AuditTrail
from devopsellence.controller.gateway.rules.grants import KeyRange
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.rate import Rate
from devopsellence.store.keys import Keys

_log = structlog.get_logger("gateway")
_SHOWN_KEYS: Final = 5
_LONGEST_TEXT: Final = 300
#: Refusals of one caller that are logged.
_LOGGED_REFUSALS: Final = Rate(50, 0.2)
#: Seconds after which a further read of the same secrets by the same caller is an entry again. A command reads them one
#: by one, and again and again while it waits.
_READ_AGAIN: Final = 60.0
_MOST_READS: Final = 10_000


class AuditLog:
    """Audit of one gateway's calls. ``trail``: None to write log lines alone."""

    def __init__(self, keys: Keys, trail: AuditTrail | None) -> None:
        self.trail = trail
        self._keys = keys
        self._logged, self._recorded = RefusalBudget(_LOGGED_REFUSALS), RefusalBudget()
        self._reads: dict[tuple[str, tuple[str, ...]], float] = {}

    def written(
        self,
        source: CallSource,
        method: str,
        keys: Sequence[KeyRange],
        outcome: str,
        puts: Sequence[rpc.PutRequest] = (),
        stored: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Note a write that was passed on to etcd; ``stored`` has values before, as far as they are known."""
        shown = [str(key)[:_LONGEST_TEXT] for key in keys[:_SHOWN_KEYS]]
        more = {"more_keys": len(keys) - _SHOWN_KEYS} if len(keys) > _SHOWN_KEYS else {}
        caller = source.certificate.common_name
        # A thousand nodes report several times in each rollout.
        log = _log.debug if is_node(caller) else _log.info
        log("written", caller=caller, method=method, keys=shown, outcome=outcome, **more)
        if self.trail is not None and keys and not is_node(caller):
            description = describe_writes(self._keys, puts, keys, stored)
            self._add(source.entry(method, AuditEntry.ALLOWED), description)

    def failed(
        self, source: CallSource, method: str, code: str, reason: str, request: Message | None, *, write: bool
    ) -> None:
        """Note a call that etcd refused or did not answer; an unanswered write may have happened."""
        caller = source.certificate.common_name
        _log.info("failed", caller=caller, method=method, code=code, reason=reason[:_LONGEST_TEXT])
        if self.trail is not None and write and not is_node(caller):
            entry = source.entry(method, AuditEntry.FAILED, f"{reason} ({code})")
            self._add(entry, describe_request(self._keys, request))

    def read(self, source: CallSource, method: str, keys: Sequence[KeyRange] = (), now: float = 0.0) -> None:
        """Note a read or a watch: a log line for debugging, and an entry if there can be secrets in ``keys``."""
        caller = source.certificate.common_name
        _log.debug("read", caller=caller, method=method)
        if self.trail is None or is_node(caller) or not (secret := secret_ranges(self._keys, keys)):
            return
        description = describe_reads(self._keys, secret)
        scope = (caller, description.environments)
        last = self._reads.get(scope)
        if last is not None and now < last + _READ_AGAIN:
            return
        if len(self._reads) >= _MOST_READS:
            self._reads.clear()
        self._reads[scope] = now
        self._add(source.entry(method, AuditEntry.ALLOWED), description)

    def refused(
        self, source: CallSource, method: str, refused: Refused, now: float, request: Message | None = None
    ) -> None:
        """Note a refusal, or count it if too many of this caller's were noted."""
        caller = source.certificate.common_name
        reason = refused.reason[:_LONGEST_TEXT]
        if (not_logged := self._logged.take(caller, now)) is not None:
            more = {"not_logged": not_logged} if not_logged else {}
            kind = refused.kind.name.lower()
            _log.warning("refused", caller=caller, method=method, kind=kind, reason=reason, **more)
        # Not of the caller's doing: this gateway cannot serve at present.
        if self.trail is None or refused.kind is RefusalKind.NOT_NOW:
            return
        if (left_out := self._recorded.take(caller, now)) is not None:
            entry = source.entry(method, AuditEntry.REFUSED, refused.reason)
            entry.left_out = left_out
            self._add(entry, describe_request(self._keys, request))

    def _add(self, entry: AuditEntry, description: Description) -> None:
        if self.trail is None:
            return
        entry.summary = description.summary
        entry.environments.extend(description.environments)
        entry.nodes.extend(description.nodes)
        entry.keys.extend(description.keys)
        self.trail.add(entry, of_node=is_node(entry.caller))
