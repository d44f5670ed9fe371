"""Key classes of the matrix: a key of every kind that is the caller's own, and one that is somebody else's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message

from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.certificates.authority import CertificateAuthority
from devopsellence.store.codec import encode
from devopsellence.store.keys import EnvironmentRef, Keys

OWN = EnvironmentRef("acme", "shop", "production")
OTHER = EnvironmentRef("acme", "shop", "staging")
HOST = "app.example.com"
ROOT_PEM = CertificateAuthority.create("authority", datetime.now(UTC)).trusted.decode()
#: Operators with a single role.
ROLES = {
    "viewer": (Role.VIEWER, str(OWN)),
    "deployer": (Role.DEPLOYER, str(OWN)),
    "exec": (Role.EXEC, str(OWN)),
    "admin": (Role.ADMIN, str(OWN)),
    "admins": (Role.ADMIN, "*"),
}


def fields(ref: EnvironmentRef) -> dict[str, Any]:
    return {"organization": ref.organization, "project": ref.project, "environment": ref.environment}


def records(keys: Keys, author: str) -> dict[str, tuple[str, bytes]]:
    """Return key and valid value of every class; ``author`` is the operator named in records."""
    found: dict[str, tuple[str, Message]] = {}
    for node in ("n1", "n2"):
        uid = f"uid-{node}"
        found |= {
            f"node {node}": (keys.node(node), pb.Node(name=node, uid=uid)),
            f"heartbeat {node}": (keys.heartbeat(node), pb.Heartbeat(node=node, uid=uid)),
        }
        for name, ref in (("own", OWN), ("other", OTHER)):
            found |= {
                f"assignment {node} {name}": (keys.assignment(node, ref), pb.Assignment(node=node, **fields(ref))),
                f"ingress {node} {name}": (keys.ingress(node, ref, HOST), pb.NodeIngress(node=node, **fields(ref))),
                f"status {node} {name}": (
                    keys.status(node, ref),
                    pb.AssignmentStatus(node=node, node_uid=uid, **fields(ref)),
                ),
            }
    for name, ref in (("own", OWN), ("other", OTHER)):
        found |= {
            f"environment {name}": (keys.environment(ref), pb.Environment(**fields(ref))),
            f"release {name}": (keys.release(ref, 1), pb.Release(number=1, created_by=author, **fields(ref))),
            f"rollout {name}": (keys.rollout(ref), pb.Rollout(**fields(ref))),
            f"secret {name}": (keys.secret(ref, "web", "KEY"), pb.Secret(service="web", name="KEY", **fields(ref))),
            f"certificate {name}": (keys.certificate(ref, HOST), pb.Certificate(host=HOST, **fields(ref))),
            f"event {name}": (keys.event(ref, "e1"), pb.Event(source="cli")),
        }
    found |= {
        "recipient": (keys.operator("ann"), pb.Operator(name="ann", operator=author)),
        # Of a version without roles, and of this one.
        "access ann": (keys.operator_access("ann"), pb.OperatorAccess(name="ann", environments=[str(OWN)])),
        **{
            f"access {name}": (keys.operator_access(name), record_of(name, Rights(frozenset({(role, where)}))))
            for name, (role, where) in ROLES.items()
        },
        "denied": (keys.denied, pb.DenyList(certificates=[pb.DeniedCertificate(serial="c0ffee")])),
        "issued": (keys.issued_certificate("c0ffee"), pb.IssuedCertificate(serial="c0ffee", identity="node:uid-n1")),
        "used": (keys.used_join_token("c0ffee"), pb.UsedJoinToken(node="n1", uid="uid-n1")),
        "gateways": (keys.gateways, pb.Gateways(addresses=["10.0.0.1:2381"])),
        "authorities": (keys.authorities, pb.Authorities(certificates=[ROOT_PEM])),
        "claim": (keys.host_claim("n1", HOST), pb.HostClaim()),
        "election": (keys.candidate(1), pb.Candidate()),
        "unknown kind": (f"{keys.prefix}junk/x", pb.Event()),
        "elsewhere": (f"/elsewhere{keys.prefix}nodes/n1", pb.Node(name="n1")),
    }
    return {name: (key, encode(message)) for name, (key, message) in found.items()}
