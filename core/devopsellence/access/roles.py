"""Roles of operators, and the actions that each permits."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum, auto
from typing import Final


class Role(StrEnum):
    """Role of an operator, by its name on the command line."""

    VIEWER = "viewer"
    DEPLOYER = "deployer"
    ADMIN = "admin"
    EXEC = "exec"


class Action(Enum):
    """Action that a role may permit in an environment."""

    #: Read the records of the environment, but its secrets.
    VIEW = auto()
    #: Measure and check a node.
    DIAGNOSE = auto()
    #: Write releases, attach nodes, delete the environment.
    DEPLOY = auto()
    #: Transfer images to nodes.
    SEND_IMAGES = auto()
    #: Read the output of containers.
    READ_LOGS = auto()
    #: Read what is encrypted: records of secrets, and what nodes get of them.
    LIST_SECRETS = auto()
    #: Write secrets and certificates.
    WRITE_SECRETS = auto()
    #: Run commands in containers, and tasks.
    EXECUTE = auto()
    #: Register, change and remove nodes, which all environments share.
    CHANGE_NODES = auto()
    #: Read who has which role and what is denied, to verify who has approved a recipient.
    READ_ACCESS = auto()
    #: Grant and revoke access.
    GRANT = auto()
    #: Read the audit trail about the environment, of all callers.
    READ_AUDIT = auto()
    #: Deny certificates, whose owners may have access to any environment.
    DENY = auto()


_READING: Final = frozenset({Action.VIEW, Action.DIAGNOSE})
PERMITTED: Final[Mapping[Role, frozenset[Action]]] = {
    Role.VIEWER: _READING,
    Role.DEPLOYER: _READING
    | {Action.DEPLOY, Action.SEND_IMAGES, Action.READ_LOGS, Action.LIST_SECRETS, Action.WRITE_SECRETS}
    | {Action.READ_ACCESS},
    # Lists secrets, to tell which ones a removed node or operator could decrypt.
    Role.ADMIN: _READING
    | {Action.READ_ACCESS, Action.LIST_SECRETS, Action.CHANGE_NODES, Action.GRANT, Action.READ_AUDIT, Action.DENY},
    Role.EXEC: _READING | {Action.EXECUTE},
}
#: Actions that concern all environments at once, so they need the role in all of them.
CLUSTER_WIDE: Final = frozenset({Action.CHANGE_NODES, Action.DENY})
