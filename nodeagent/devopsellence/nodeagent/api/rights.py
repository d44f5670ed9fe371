"""Rights of callers: checked as a call begins, and again whenever access changes, which ends calls in progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc
import structlog

from devopsellence.access.certificate import Certificate
from devopsellence.access.policy import AccessDenied, AccessPolicy
from devopsellence.access.roles import Action
from devopsellence.nodeagent.access import AccessState
from devopsellence.nodeagent.api.auth import CallRefused

_log = structlog.get_logger()


class NodeAccess(Protocol):
    """Access data of the node, as the API needs it."""

    @property
    def policy(self) -> AccessPolicy | None:
        """Return the policy for operators; None: they may all do everything, because nothing says what they may."""

    def state(self) -> AccessState:
        """Return the state for people."""


@dataclass(eq=False)
class _OpenCall:
    """A call in progress. ``refused``: why it is being ended."""

    caller: Certificate
    action: Action
    environment: str
    task: asyncio.Task[Any]
    refused: CallRefused | None = None


class CallRights:
    """Rights of the callers of one node's API. Lives on the event loop."""

    def __init__(self, access: NodeAccess) -> None:
        self._access = access
        self._open: set[_OpenCall] = set()

    def check_denied(self, caller: Certificate) -> None:
        """Check that the certificate is not on the deny-list. CallRefused (PERMISSION_DENIED) if it is."""
        if (policy := self._access.policy) is not None:
            try:
                policy.check_denied(caller)
            except AccessDenied as error:
                raise CallRefused(grpc.StatusCode.PERMISSION_DENIED, str(error)) from error

    def visible(self, caller: Certificate, environments: Iterable[str]) -> set[str]:
        """Return those of ``environments`` in which the caller has a role."""
        return {path for path in environments if self._problem(caller, Action.VIEW, path) is None}

    @asynccontextmanager
    async def during(self, caller: Certificate, action: Action, environment: str = "") -> AsyncIterator[None]:
        """Permit the block to an operator, in ``environment`` or in any (""), until the access is withdrawn.

        Raises:
            CallRefused: PERMISSION_DENIED: at once, or in place of the block's end.
        """
        if problem := self._problem(caller, action, environment):
            raise problem
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        call, cancelling = _OpenCall(caller, action, environment, task), task.cancelling()
        self._open.add(call)
        try:
            yield
        except asyncio.CancelledError:
            # As asyncio.timeout does: unless somebody else has cancelled the task, too.
            if call.refused is None or task.uncancel() > cancelling:
                raise
            raise call.refused from None
        finally:
            self._open.discard(call)

    def changed(self) -> None:
        """End the calls whose caller has lost the access."""
        for call in self._open:
            if call.refused is None and (problem := self._problem(call.caller, call.action, call.environment)):
                _log.info("API call ended", caller=call.caller.common_name, reason=problem.message)
                call.refused = problem
                call.task.cancel()

    def _problem(self, caller: Certificate, action: Action, environment: str) -> CallRefused | None:
        policy = self._access.policy
        if policy is None:
            return None
        try:
            policy.check(caller, action, environment)
        except AccessDenied as error:
            return CallRefused(grpc.StatusCode.PERMISSION_DENIED, str(error))
        return None
