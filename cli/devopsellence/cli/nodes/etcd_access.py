"""Who gets into etcd as a node, where certificates are the credential; and the sign of life that it leaves there."""

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
    """Let the certificate of the machine that is ``node`` into etcd. May be repeated.

    Raises:
        CliError: ``etcd_permission_denied``: only root may; ``busy``: the name is another machine's meanwhile.
    """
    message = f"node {node.name} is registered, but only root may let its certificate into etcd"
    async with _as_root(message, f"devopsellence node register {node.name}, as before"):
        await acl.grant_node(etcd, node.name, node.uid)
        key = etcd.keys.node(node.name)
        found = await etcd.get(key)
        if found is None or decode(Node, key, found.value).uid != node.uid:
            await acl.revoke_machine(etcd, node.uid)
            look = NextAction("see which it is", "devopsellence node list")
            raise CliError("busy", f"somebody else has replaced node {node.name} meanwhile", next_actions=[look])


async def revoke_access(etcd: Etcd, name: str, uid: str, again: str) -> None:
    """Let no machine that is, or was, node ``name`` into etcd; ``uid`` is the last one's, "" where it is not known.

    Raises:
        CliError: ``etcd_permission_denied``: only root may; ``again`` is the command for that.
    """
    async with _as_root(f"only root may shut the machine of node {name} out of etcd; nothing was changed", again):
        await acl.revoke_node(etcd, name)
        if uid:
            await acl.revoke_machine(etcd, uid)


async def check_root(etcd: Etcd, node: Node, again: str) -> None:
    """Find out that we may manage users before anything is changed that takes it; repeats what is granted already.

    Raises:
        CliError: ``etcd_permission_denied``.
    """
    async with _as_root(f"only root may shut the machine of node {node.name} out of etcd; nothing was changed", again):
        await acl.grant_node(etcd, node.name, node.uid)


async def end_heartbeat(etcd: Etcd, name: str, uid: str = "") -> None:
    """End the heartbeat of ``name``, unless it is that of the machine ``uid``. May be repeated."""
    key = etcd.keys.heartbeat(name)
    found = await etcd.get(key)
    if found is None:
        return
    with suppress(MalformedRecord):
        if uid and decode(Heartbeat, key, found.value).uid == uid:
            return
    if found.lease:
        await etcd.revoke_lease(found.lease)
    else:
        await etcd.delete(key)


@asynccontextmanager
async def _as_root(message: str, command: str) -> AsyncIterator[None]:
    try:
        yield
    except PermissionDenied as error:
        action = NextAction("with root's certificate", command)
        raise CliError("etcd_permission_denied", message, next_actions=[action]) from error
