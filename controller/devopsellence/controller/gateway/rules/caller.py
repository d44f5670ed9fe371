"""Callers of the gateway: roles, identities from certificates, and the grants of each role. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from devopsellence.agent_identity import NODE_PREFIX, OPERATOR_PREFIX
from devopsellence.api.v1.stored_pb2 import OperatorAccess
from devopsellence.controller.gateway.rules.grants import ANY, Grants, KeyPattern
from devopsellence.controller.gateway.rules.refusal import denied
from devopsellence.names import NAME, check_name
from devopsellence.store.identities import USER_CONTROLLER, USER_OPERATOR
from devopsellence.store.keys import Keys

#: Kinds of records whose key names the environment first, and that operators write.
_WRITTEN_BY_OPERATORS: Final = ("environments", "releases", "secrets", "certificates", "events")
#: Kinds of records whose key names the environment after the node.
_OF_NODES: Final = ("assignments", "status", "ingress")
#: Where the gateways are, for everybody.
_GATEWAYS: Final = KeyPattern(("access", "gateways"), tree=False)


class Role(StrEnum):
    NODE = "node"
    OPERATOR = "operator"
    #: The operator with all rights, whose certificate names no person.
    ROOT = "root"
    #: A controller, which has access to etcd itself: bounded by the prefix alone.
    CONTROLLER = "controller"


@dataclass(frozen=True)
class Caller:
    """Caller of the gateway. ``identity`` is the certificate's common name, ``name`` that of the node or operator."""

    role: Role
    identity: str
    name: str
    grants: Grants
    #: Machine of a node; empty otherwise.
    uid: str = ""

    @property
    def is_trusted(self) -> bool:
        """Return True if values and leases are the caller's own affair."""
        return self.role is Role.CONTROLLER


def identify(
    common_names: Sequence[str],
    keys: Keys,
    node_with_uid: Callable[[str], str],
    access_of: Callable[[str], OperatorAccess | None],
) -> Caller:
    """Return the caller with a certificate of ``common_names``.

    Args:
        node_with_uid: name of the node registered with a uid; "" for none.
        access_of: access of an operator; None for none.

    Raises:
        Refused: the certificate gives no access.
    """
    name = common_names[0] if len(common_names) == 1 else ""
    if name == USER_CONTROLLER:
        return Caller(Role.CONTROLLER, name, name, _everything(keys))
    if name == USER_OPERATOR:
        return Caller(Role.ROOT, name, name, _root_grants(keys))
    if (uid := name.removeprefix(NODE_PREFIX)) != name:
        if not (NAME.match(uid) and (node := node_with_uid(uid))):
            raise denied(f"no node is registered with the uid of the certificate {name!r}")
        return Caller(Role.NODE, name, node, node_grants(keys, node), uid)
    if (operator := name.removeprefix(OPERATOR_PREFIX)) != name:
        access = access_of(operator) if NAME.match(operator) else None
        if access is None:
            raise denied(f"operator {operator!r} has been granted no access")
        return Caller(Role.OPERATOR, name, operator, operator_grants(keys, operator, access))
    raise denied(f"a certificate of {', '.join(common_names) or 'nobody'} gives no access")


def node_grants(keys: Keys, node: str) -> Grants:
    """Return the rights of the agent of ``node``: its own desired state, and its own reports."""
    check_name("node", node)
    status, events = KeyPattern(("status", node)), KeyPattern(("events",))
    heartbeat = KeyPattern(("heartbeats", node), tree=False)
    own = (
        KeyPattern(("nodes", node), tree=False),
        KeyPattern(("assignments", node)),
        KeyPattern(("ingress", node)),
        _GATEWAYS,
    )
    return Grants(keys.prefix.encode(), read=(*own, heartbeat, status), write=(heartbeat, status, events))


def operator_grants(keys: Keys, operator: str, access: OperatorAccess) -> Grants:
    """Return the rights of an operator: the records of some environments, and what all environments share."""
    environments = [_environment_parts(pattern) for pattern in access.environments]
    shared = [KeyPattern((kind,)) for kind in ("nodes", "heartbeats", "operators", "election", "hosts")]
    shared += [KeyPattern(("access", "operators", check_name("operator", operator)), tree=False), _GATEWAYS]
    written = [KeyPattern((kind, *parts)) for kind in _WRITTEN_BY_OPERATORS for parts in environments]
    rollouts = [KeyPattern(("rollouts", *parts)) for parts in environments]
    of_nodes = [KeyPattern((kind, ANY, *parts) if parts else (kind,)) for kind in _OF_NODES for parts in environments]
    recipients = [KeyPattern(("operators",))]
    nodes = [KeyPattern(("nodes",))] if access.nodes else []
    heartbeats = [KeyPattern(("heartbeats",))] if access.nodes else []
    return Grants(
        keys.prefix.encode(),
        read=(*shared, *written, *rollouts, *of_nodes),
        write=(*written, *recipients, *nodes),
        delete=(*written, *rollouts, *recipients, *nodes, *heartbeats),
    )


def _environment_parts(pattern: str) -> tuple[str, ...]:
    """Return the parts of an environment's path that a pattern of OperatorAccess fixes.

    Raises:
        Refused: the pattern is malformed, so the access record gives no access.
    """
    parts = tuple(pattern.split("/"))
    fixed = parts[:-1] if parts[-1] == ANY else parts
    is_valid = all(NAME.match(part) for part in fixed) and (len(fixed) == 3 if fixed == parts else len(fixed) < 3)
    if not is_valid:
        raise denied(f"the operator's access record is malformed: {pattern!r} is no pattern of environments")
    return fixed


def _root_grants(keys: Keys) -> Grants:
    rights = operator_grants(keys, USER_OPERATOR, OperatorAccess(environments=[ANY], nodes=True))
    access = KeyPattern(("access", "operators"))
    everything = KeyPattern(())
    return Grants(rights.prefix, read=(everything,), write=(*rights.write, access, _GATEWAYS), delete=(everything,))


def _everything(keys: Keys) -> Grants:
    everything = (KeyPattern(()),)
    return Grants(keys.prefix.encode(), read=everything, write=everything, delete=everything)
