"""Identities of the parties of a cluster: the common names of their certificates. Pure.

The gateways tell by them who calls, and agents who their callers are.
"""

from __future__ import annotations

from typing import Final

from devopsellence.agent_identity import JOIN_PREFIX, NODE_PREFIX, OPERATOR_PREFIX, OPERATOR_ROOT, ROUTER_PREFIX
from devopsellence.store.keys import check_name

#: The operator with all rights, whose certificate names no person.
USER_OPERATOR: Final = OPERATOR_ROOT
USER_CONTROLLER: Final = "controller"


def user_of_node(uid: str) -> str:
    """Return the identity of the agent on the machine ``uid``."""
    return f"{NODE_PREFIX}{check_name('node uid', uid)}"


def user_of_join_token(uid: str) -> str:
    """Return the identity of a join token for the machine ``uid``."""
    return f"{JOIN_PREFIX}{check_name('node uid', uid)}"


def user_of_router(uid: str) -> str:
    """Return the identity of the router on the machine ``uid``."""
    return f"{ROUTER_PREFIX}{check_name('node uid', uid)}"


def user_of_operator(name: str) -> str:
    """Return the identity of an operator other than root."""
    return f"{OPERATOR_PREFIX}{check_name('operator', name)}"
