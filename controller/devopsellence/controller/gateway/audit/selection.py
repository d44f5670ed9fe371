"""Choice of entries: which an operator may read, and which a request asks for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from devopsellence.access.patterns import ANY, InvalidPattern, covers, fixed_parts
from devopsellence.access.roles import Action
from devopsellence.api.v1.audit_pb2 import AuditEntry, AuditRequest
from devopsellence.controller.gateway.rules.caller import Caller, Role
from devopsellence.controller.gateway.rules.refusal import denied, invalid

#: Most entries of a request with a limit.
MOST_ENTRIES = 10_000


def check_request(caller: Caller, request: AuditRequest) -> None:
    """Check that a request can be answered to a caller.

    Raises:
        Refused: nodes may not read, or the request is malformed.
    """
    if caller.role is Role.NODE:
        raise denied(f"{caller.identity} may not read the audit trail")
    if request.limit > MOST_ENTRIES:
        raise invalid(f"a limit of {request.limit} entries: {MOST_ENTRIES} are the most, and 0 means all")
    try:
        if request.environment:
            fixed_parts(request.environment)
        request.since.ToJsonString(), request.until.ToJsonString()
    except (InvalidPattern, ValueError) as error:
        raise invalid(str(error)) from error


@dataclass(frozen=True)
class Selection:
    """Entries of ``request`` that ``caller`` may read: its own, and those of environments where it is an admin."""

    caller: Caller
    request: AuditRequest

    def needles(self) -> tuple[bytes, ...]:
        """Return texts that each line with a chosen entry has; a quick look spares most of them the parser."""
        texts = (self.request.caller, self.request.node)
        plain = (text for text in texts if text.isascii() and text.isprintable() and not set(text) & set('"\\<>&'))
        refused = (b'"REFUSED"',) if self.request.refused else ()
        return (*(text.encode() for text in plain if text), *refused)

    def has(self, entry: AuditEntry) -> bool:
        """Return True for a chosen entry."""
        return self._is_asked_for(entry) and self._is_visible(entry)

    def _is_asked_for(self, entry: AuditEntry) -> bool:
        asked = self.request
        at = _nanos(entry.at)
        return (
            (not asked.HasField("since") or at >= _nanos(asked.since))
            and (not asked.HasField("until") or at < _nanos(asked.until))
            and (not asked.caller or entry.caller == asked.caller)
            and (not asked.node or asked.node in (entry.reported_by, entry.caller_node, *entry.nodes))
            and (not asked.refused or entry.outcome == AuditEntry.REFUSED)
            and (not asked.environment or any(_covers(pattern, asked.environment) for pattern in entry.environments))
        )

    def _is_visible(self, entry: AuditEntry) -> bool:
        caller = self.caller
        if caller.role in (Role.ROOT, Role.CONTROLLER) or entry.caller == caller.identity:
            return True
        held = caller.rights.patterns(Action.READ_AUDIT)
        if ANY in held:
            return True
        # An entry about no environment is about something that all of them share.
        return bool(entry.environments) and all(
            any(_covers(pattern, environment) for pattern in held) for environment in entry.environments
        )


def _covers(pattern: str, environment: str) -> bool:
    try:
        return covers(pattern, environment)
    except InvalidPattern:
        # Of a refused request, or reported by a node.
        return False


def _nanos(stamp: object) -> int:
    return int(stamp.seconds) * 1_000_000_000 + int(stamp.nanos)  # type: ignore[attr-defined]
