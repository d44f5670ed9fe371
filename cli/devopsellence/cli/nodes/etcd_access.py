"""Access of node certificates to etcd (grant, revoke), and ending the heartbeat of a replaced or removed node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.cli.output import CliError, NextAction
from devopsellence.store import acl
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord, PermissionDenied
from devopsellence.store.etcd import Etcd


async def grant_access(etcd: Etcd, node: Node) -> None:
    """Grant the certificate of ``node`` access to etcd. May be repeated.

    Raises:
        CliError: ``etcd_permission_denied``: requires the root certificate; ``busy``: the node was replaced meanwhile.
    """
    message = f"node {node.name} is registered, but only root can grant its certificate access to etcd"
    async with _as_root(message, f"devopsellence node register {node.name} (same options)"):
        await acl.grant_node(etcd, node.name, node.uid)
        key = etcd.keys.node(node.name)
        stored = await etcd.get(key)
        if stored is None or decode(Node, key, stored.value).uid != node.uid:
            await acl.revoke_machine(etcd, node.uid)
            look = NextAction("list the nodes", "devopsellence node list")
            raise CliError("busy", f"somebody else replaced node {node.name} meanwhile", next_actions=[look])


async def revoke_access(etcd: Etcd, name: str, uid: str, again: str) -> None:
    """Revoke the access to etcd of all machines registered as node ``name``; ``uid`` is the current uid, "" if unknown.

    Raises:
        CliError: ``etcd_permission_denied``: requires the root certificate; ``again`` is the command to run as root.
    """
    async with _as_root(f"only root can revoke the access of node {name} to etcd; nothing was changed", again):
        await acl.revoke_node(etcd, name)
        if uid:
            await acl.revoke_machine(etcd, uid)


async def check_root(etcd: Etcd, node: Node, again: str) -> None:
    """Check for permission to manage etcd users, by repeating an existing grant, before other changes.

    Raises:
        CliError: ``etcd_permission_denied``.
    """
    async with _as_root(f"only root can revoke the access of node {node.name} to etcd; nothing was changed", again):
        await acl.grant_node(etcd, node.name, node.uid)


async def end_heartbeat(etcd: Etcd, name: str, uid: str = "") -> None:
    """End the heartbeat of node ``name``, except a heartbeat with ``uid``. May be repeated."""
    key = etcd.keys.heartbeat(name)
    stored = await etcd.get(key)
    if stored is None:
        return
    with suppress(MalformedRecord):
        if uid and decode(Heartbeat, key, stored.value).uid == uid:
            return
    if stored.lease:
        await etcd.revoke_lease(stored.lease)
    else:
        await etcd.delete(key)


@asynccontextmanager
async def _as_root(message: str, command: str) -> AsyncIterator[None]:
    try:
        yield
    except PermissionDenied as error:
        action = NextAction("run with the root certificate", command)
        raise CliError("etcd_permission_denied", message, next_actions=[action]) from error
