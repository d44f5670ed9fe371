"""Callers of the gateway: roles, identities from certificates, and the grants of each role. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from devopsellence.access.certificate import Certificate
from devopsellence.access.patterns import fixed_parts
from devopsellence.access.policy import AccessDenied, AccessPolicy
from devopsellence.access.rights import FULL_RIGHTS, NO_RIGHTS, Rights
from devopsellence.access.roles import Action
from devopsellence.agent_identity import JOIN_PREFIX, NODE_PREFIX, OPERATOR_PREFIX
from devopsellence.controller.gateway.rules.grants import ANY, Grants, KeyPattern
from devopsellence.controller.gateway.rules.refusal import denied
from devopsellence.names import NAME, check_name
from devopsellence.store.identities import USER_CONTROLLER, USER_OPERATOR
from devopsellence.store.keys import Keys

#: Kinds of records whose key names the environment first, and those whose key names it after the node, by the action
#: that reads them. Assignments and ingress have encrypted secrets.
_READ: Final[Mapping[Action, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    Action.VIEW: (("environments", "releases", "rollouts", "certificates", "events"), ("status",)),
    Action.LIST_SECRETS: (("secrets",), ("assignments", "ingress")),
}
#: Kinds of records whose key names the environment first, by the action that writes and deletes them.
_WRITTEN: Final[Mapping[Action, tuple[str, ...]]] = {
    Action.DEPLOY: ("environments", "releases", "events"),
    Action.WRITE_SECRETS: ("secrets", "certificates"),
}
_ACCESS: Final = KeyPattern(("access", "operators"))
_DENIED: Final = KeyPattern(("access", "denied"), tree=False)
_ISSUED: Final = KeyPattern(("access", "certificates"))
_RECIPIENTS: Final = KeyPattern(("operators",))
#: Where the gateways are, and whose certificates to trust, for everybody.
_SHARED: Final = tuple(KeyPattern(("access", record), tree=False) for record in ("gateways", "authorities"))


class Role(StrEnum):
    NODE = "node"
    OPERATOR = "operator"
    #: The operator with all rights, whose certificate names no person.
    ROOT = "root"
    #: A controller, which has access to etcd itself: bounded by the prefix alone.
    CONTROLLER = "controller"
    #: A machine with a join token, which is good for one call.
    JOIN = "join"


@dataclass(frozen=True)
class Caller:
    """Caller of the gateway.

    ``identity`` is the certificate's common name, ``name`` that of the node or operator; empty for a join token.
    """

    role: Role
    identity: str
    name: str
    grants: Grants
    #: Machine of a node or a join token; empty otherwise.
    uid: str = ""
    #: Rights of an operator; none otherwise.
    rights: Rights = NO_RIGHTS

    @property
    def is_trusted(self) -> bool:
        """Return True if values and leases are the caller's own affair."""
        return self.role is Role.CONTROLLER


def identify(
    common_names: Sequence[str],
    serial: str,
    keys: Keys,
    node_with_uid: Callable[[str], str],
    policy: AccessPolicy,
) -> Caller:
    """Return the caller with a certificate of ``common_names`` and the serial number ``serial``.

    Args:
        node_with_uid: name of the node registered with a uid; "" for none.

    Raises:
        Refused: the certificate gives no access.
    """
    name = common_names[0] if len(common_names) == 1 else ""
    try:
        policy.check_denied(Certificate(name, serial))
        if name == USER_CONTROLLER:
            return Caller(Role.CONTROLLER, name, name, _everything(keys))
        if name == USER_OPERATOR:
            return Caller(Role.ROOT, name, name, _root_grants(keys))
        if (uid := name.removeprefix(NODE_PREFIX)) != name:
            return _node(name, uid, keys, node_with_uid)
        if NAME.match(uid := name.removeprefix(JOIN_PREFIX)) and uid != name:
            # Whether a node is registered with the uid is looked up when the token is used.
            policy.check_denied(Certificate(f"{NODE_PREFIX}{uid}"))
            return Caller(Role.JOIN, name, "", Grants(keys.prefix.encode()), uid)
        if (operator := name.removeprefix(OPERATOR_PREFIX)) != name:
            rights = policy.rights(Certificate(name))
            return Caller(Role.OPERATOR, name, operator, operator_grants(keys, operator, rights), rights=rights)
    except AccessDenied as error:
        raise denied(str(error)) from error
    raise denied(f"a certificate of {', '.join(common_names) or 'nobody'} gives no access")


def _node(name: str, uid: str, keys: Keys, node_with_uid: Callable[[str], str]) -> Caller:
    if not (NAME.match(uid) and (node := node_with_uid(uid))):
        raise denied(f"no node is registered with the uid of the certificate {name!r}")
    return Caller(Role.NODE, name, node, node_grants(keys, node), uid)


def node_grants(keys: Keys, node: str) -> Grants:
    """Return the rights of the agent of ``node``: its own desired state, and its own reports."""
    check_name("node", node)
    status, events = KeyPattern(("status", node)), KeyPattern(("events",))
    heartbeat = KeyPattern(("heartbeats", node), tree=False)
    own = (
        KeyPattern(("nodes", node), tree=False),
        KeyPattern(("assignments", node)),
        KeyPattern(("ingress", node)),
        # For the API of its agent, which admits operators by the same records.
        _ACCESS,
        _DENIED,
        *_SHARED,
    )
    return Grants(keys.prefix.encode(), read=(*own, heartbeat, status), write=(heartbeat, status, events))


def operator_grants(keys: Keys, operator: str, rights: Rights) -> Grants:
    """Return the rights of an operator on keys: the records of some environments, and what all environments share."""

    def of_environments(action: Action, kinds: Sequence[str], *, of_nodes: bool = False) -> list[KeyPattern]:
        places = [fixed_parts(pattern) for pattern in rights.patterns(action)]
        between = (ANY,) if of_nodes else ()
        return [KeyPattern((kind, *(between if parts else ()), *parts)) for kind in kinds for parts in places]

    read = [KeyPattern((kind,)) for kind in ("nodes", "heartbeats", "operators", "election", "hosts")]
    read += [KeyPattern(("access", "operators", check_name("operator", operator)), tree=False), *_SHARED]
    for action, (kinds, kinds_of_nodes) in _READ.items():
        read += of_environments(action, kinds) + of_environments(action, kinds_of_nodes, of_nodes=True)
    written = [pattern for action, kinds in _WRITTEN.items() for pattern in of_environments(action, kinds)]
    write, delete = list(written), written + of_environments(Action.DEPLOY, ("rollouts",))
    if rights.permit_somewhere(Action.WRITE_SECRETS):
        write.append(_RECIPIENTS)
    if rights.permit_somewhere(Action.CHANGE_NODES):
        # Nodes are attached to environments, whose records and events tell of their changes.
        write += [KeyPattern((kind,)) for kind in ("nodes", "environments", "events")]
        delete += [KeyPattern((kind,)) for kind in ("nodes", "heartbeats")]
    if rights.permit_somewhere(Action.READ_ACCESS):
        read += [_ACCESS, _DENIED]
    if rights.permit_somewhere(Action.GRANT):
        read.append(_ISSUED)
        write.append(_ACCESS)
    if rights.permit_somewhere(Action.DENY):
        write += [_DENIED, _RECIPIENTS]
        delete += [_ACCESS, _RECIPIENTS]
    return Grants(keys.prefix.encode(), tuple(read), tuple(write), tuple(delete))


def _root_grants(keys: Keys) -> Grants:
    rights = operator_grants(keys, USER_OPERATOR, FULL_RIGHTS)
    everything = (KeyPattern(()),)
    return Grants(rights.prefix, read=everything, write=(*rights.write, *_SHARED), delete=everything)


def _everything(keys: Keys) -> Grants:
    everything = (KeyPattern(()),)
    return Grants(keys.prefix.encode(), read=everything, write=everything, delete=everything)
