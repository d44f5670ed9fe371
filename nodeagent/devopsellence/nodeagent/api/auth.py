"""Who calls, and how a call ends that is refused: with a status, a sentence, and the name of the node that spoke."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from devopsellence.agent_identity import REFUSED_BY, is_node, is_operator
from devopsellence.nodeagent.docker import errors

_COMMON_NAME: Final = "x509_common_name"
_Code = grpc.StatusCode


class CallRefused(Exception):
    """A call is refused; ``sentence`` becomes the details of the status."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.message = sentence


def operator_name(identities: Mapping[str, Iterable[bytes]]) -> str:
    """The common name in the certificate that a connection was made with, from gRPC's view of it.

    Raises:
        Refusal: PERMISSION_DENIED: it is no operator's.
    """
    return _named(identities, is_operator, "only operators may ask an agent")


def node_name(identities: Mapping[str, Iterable[bytes]]) -> str:
    """The same, where it must be a node's.

    Raises:
        Refusal: PERMISSION_DENIED: it is none.
    """
    return _named(identities, is_node, "only nodes may ask an agent for images")


def _named(identities: Mapping[str, Iterable[bytes]], may: Callable[[str], bool], rule: str) -> str:
    names = [name.decode(errors="replace") for name in identities.get(_COMMON_NAME) or ()]
    if len(names) != 1 or not may(names[0]):
        shown = ", ".join(names) or "nobody"
        raise CallRefused(_Code.PERMISSION_DENIED, f"{rule}, and this is the certificate of {shown}")
    return names[0]


def refusal_of(error: Exception) -> CallRefused:
    """An error as what the caller is told."""
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
            return CallRefused(_Code.INTERNAL, "the agent itself has failed; its log says how")


async def abort(context: grpc.aio.ServicerContext[Any, Any], node: str, why: CallRefused) -> NoReturn:
    """End the call with a refusal."""
    await context.abort(why.code, why.message, ((REFUSED_BY, node_name),))
