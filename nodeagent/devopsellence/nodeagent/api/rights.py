"""Rights of callers: checked as a call begins, and again whenever access changes, which ends calls in progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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
    """A call in progress. ``problem`` returns why it is to end, None if it is not; ``refused``: why it is ending."""

    caller: Certificate
    problem: Callable[[], CallRefused | None]
    task: asyncio.Task[Any]
    refused: CallRefused | None = None


class CallRights:
    """Rights of the callers of one node's API. Lives on the event loop."""

    def __init__(self, access: NodeAccess) -> None:
        self._access = access
        self._open: set[_OpenCall] = set()

    def check_denied(self, caller: Certificate) -> None:
        """Check that the certificate is not on the deny-list. CallRefused (PERMISSION_DENIED) if it is."""
        if problem := self._denial(caller):
            raise problem

    def visible(self, caller: Certificate, environments: Iterable[str]) -> set[str]:
        """Return those of ``environments`` in which the caller has a role."""
        return {path for path in environments if self._problem(caller, Action.VIEW, path) is None}

    def during(self, caller: Certificate, action: Action, environment: str = "") -> AbstractAsyncContextManager[None]:
        """Permit the block to an operator, in ``environment`` or in any (""), until the access is withdrawn.

        Raises:
            CallRefused: PERMISSION_DENIED: at once, or in place of the block's end.
        """
        return self._while_without(caller, lambda: self._problem(caller, action, environment))

    def until_denied(self, caller: Certificate) -> AbstractAsyncContextManager[None]:
        """Permit the block to a caller of any kind until its certificate is denied; raises as :meth:`during`."""
        return self._while_without(caller, lambda: self._denial(caller))

    def changed(self) -> None:
        """End the calls whose caller has lost the access."""
        for call in self._open:
            if call.refused is None and (problem := call.problem()):
                _log.info("API call ended", caller=call.caller.common_name, reason=problem.message)
                call.refused = problem
                call.task.cancel()

    @asynccontextmanager
    async def _while_without(
        self, caller: Certificate, get_problem: Callable[[], CallRefused | None]
    ) -> AsyncIterator[None]:
        if problem := get_problem():
            raise problem
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        call, cancelling = _OpenCall(caller, get_problem, task), task.cancelling()
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

    def _denial(self, caller: Certificate) -> CallRefused | None:
        return self._refusal(lambda policy: policy.check_denied(caller))

    def _problem(self, caller: Certificate, action: Action, environment: str) -> CallRefused | None:
        return self._refusal(lambda policy: policy.check(caller, action, environment))

    def _refusal(self, check: Callable[[AccessPolicy], None]) -> CallRefused | None:
        policy = self._access.policy
        if policy is None:
            return None
        try:
            check(policy)
        except AccessDenied as error:
            return CallRefused(grpc.StatusCode.PERMISSION_DENIED, str(error))
        return None
