"""Authentication of API calls by client certificate, and refusals: status code, message, and the name of the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc
import grpc.aio

from devopsellence.access.certificate import common_names
from devopsellence.agent_identity import REFUSED_BY, is_node, is_operator
from devopsellence.nodeagent.docker import errors

_Code = grpc.StatusCode


class CallRefused(Exception):
    """A refused call; ``message`` becomes the details of the gRPC status."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.message = sentence


def operator_name(identities: Mapping[str, Iterable[bytes]]) -> str:
    """Return the common name of an operator's certificate, from gRPC's auth context.

    Raises:
        CallRefused: PERMISSION_DENIED for any other certificate.
    """
    return _checked_name(identities, is_operator, "only operators may call the agent API")


def node_name(identities: Mapping[str, Iterable[bytes]]) -> str:
    """Return the common name of a node's certificate, from gRPC's auth context.

    Raises:
        CallRefused: PERMISSION_DENIED for any other certificate.
    """
    return _checked_name(identities, is_node, "only nodes may pull images from an agent")


def _checked_name(identities: Mapping[str, Iterable[bytes]], may: Callable[[str], bool], rule: str) -> str:
    names = common_names(identities)
    if len(names) != 1 or not may(names[0]):
        shown = ", ".join(names) or "nobody"
        raise CallRefused(_Code.PERMISSION_DENIED, f"{rule}; this is the certificate of {shown}")
    return names[0]


def refusal_of(error: Exception) -> CallRefused:
    """Return the refusal for an error."""
    match error:
        case CallRefused():
            return error
        case errors.EngineUnavailable():
            return CallRefused(_Code.UNAVAILABLE, str(error))
        case errors.DiskFull():
            return CallRefused(_Code.RESOURCE_EXHAUSTED, str(error))
        case errors.EngineError():
            return CallRefused(_Code.FAILED_PRECONDITION, str(error))
        case _:
            return CallRefused(_Code.INTERNAL, "internal error of the agent; see the agent's log")


async def abort(context: grpc.aio.ServicerContext[Any, Any], node: str, refused: CallRefused) -> NoReturn:
    """End a call with a refusal."""
    await context.abort(refused.code, refused.message, ((REFUSED_BY, node),))
