"""Reasons why recipients count, by who has signed for them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from devopsellence.access.policy import AccessPolicy
from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList, Node, Operator, RecipientApproval
from devopsellence.certificates import approval
from devopsellence.certificates.approval import Statement
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest
from devopsellence.cli.secrets import sealing
from devopsellence.cli.secrets.known import KnownRecipients
from devopsellence.cli.secrets.recipients import RecipientRecords
from devopsellence.cli.secrets.sealing import RecipientTrust
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
OWN, OTHER = "acme/shop/production", "acme/shop/staging"
KEY, NEW_KEY = "age1" + "q" * 58, "age1" + "p" * 58
AUTHORITY = CertificateAuthority.create("test", NOW)
POLICY = AccessPolicy(
    {
        name: record_of(name, Rights(frozenset({(role, where)})))
        for name, role, where in (
            ("amy", Role.ADMIN, "*"),
            ("abe", Role.ADMIN, OTHER),
            ("ann", Role.DEPLOYER, "*"),
            ("bob", Role.DEPLOYER, OTHER),
            ("eye", Role.VIEWER, "*"),
        )
    }
)
Sign = Callable[[str, Statement], RecipientApproval]


@pytest.fixture
def sign(tmp_path: Path) -> Sign:
    """Signature of a statement by a common name."""

    def signed(name: str, statement: Statement) -> RecipientApproval:
        cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
        AUTHORITY.issue(CertificateRequest(name), NOW).write(cert, key)
        found = approval.sign(Settings(("127.0.0.1:1",), ca_cert=cert, cert=cert, key=key), statement)
        assert found is not None
        return found

    return signed


def trust(policy: AccessPolicy = POLICY, known: frozenset[str] = frozenset(), own: str = "") -> RecipientTrust:
    return RecipientTrust(OWN, policy, [AUTHORITY.certificate], own, known)


def operator(signed: RecipientApproval | None = None) -> Operator:
    return Operator(name="ann.x-1", age_recipient=KEY, operator="ann", approval=signed)


@pytest.mark.parametrize(
    ("signer", "reason"),
    [
        ("root", "approved by root"),
        ("operator:amy", "approved by operator:amy"),
        ("operator:abe", ""),
        ("operator:ann", ""),
        ("operator:gone", ""),
        ("node:u1", ""),
        ("controller", ""),
    ],
)
def test_approval_counts_by_the_role_of_the_approver(sign: Sign, signer: str, reason: str) -> None:
    signed = sign(signer, approval.of_operator("ann", KEY))
    assert trust().reason(sealing.of_operator(operator(signed))) == reason
    node = Node(name="n1", uid="u1", approval=sign(signer, approval.of_node(Node(name="n1", uid="u1"), KEY)))
    assert trust().reason(sealing.of_node(node, KEY)) == reason


def test_own_approval_counts_after_an_admission_by_an_admin(sign: Sign) -> None:
    def reason(signer: str, admission: RecipientApproval) -> str:
        ann = record_of("ann", Rights(frozenset({(Role.DEPLOYER, "*")})))
        ann.admission.CopyFrom(admission)
        signed = sign(signer, approval.of_operator("ann", KEY))
        policy = AccessPolicy({**POLICY.operators, "ann": ann})
        return trust(policy).reason(sealing.of_operator(operator(signed)))

    admission = sign("root", approval.of_operator("ann"))
    assert reason("operator:ann", admission) == "of ann, who was added by an admin"
    # By another operator, although ann is admitted.
    assert reason("operator:bob", admission) == ""
    assert reason("operator:ann", sign("operator:ann", approval.of_operator("ann"))) == ""
    assert reason("operator:ann", sign("root", approval.of_operator("bob"))) == ""


def test_approval_ends_with_the_approver(sign: Sign) -> None:
    recipient = sealing.of_operator(operator(sign("operator:amy", approval.of_operator("ann", KEY))))
    denied = DenyList(certificates=[DeniedCertificate(name="operator:amy")])
    assert trust(AccessPolicy(POLICY.operators, denied)).reason(recipient) == ""
    assert trust(AccessPolicy({})).reason(recipient) == ""


def test_registered_machine_is_approved_until_its_key_changes(sign: Sign) -> None:
    node = Node(name="n1", uid="u1")
    node.approval.CopyFrom(sign("operator:amy", approval.of_node(node)))
    assert trust().reason(sealing.of_node(node, KEY)) == "approved by operator:amy"
    node.age_recipient = KEY
    assert trust().reason(sealing.of_node(node, KEY)) == "approved by operator:amy"
    assert trust().reason(sealing.of_node(node, NEW_KEY)) == ""
    node.uid = "u2"
    assert trust().reason(sealing.of_node(node, KEY)) == ""


def test_own_and_confirmed_recipients_count() -> None:
    recipient = sealing.of_operator(operator())
    assert trust().reason(recipient) == ""
    assert trust(own=KEY).reason(recipient) == "yours"
    assert trust(known=frozenset({recipient.entry(OWN)})).reason(recipient) == "confirmed by you"
    assert trust(known=frozenset({recipient.entry(OTHER)})).reason(recipient) == ""


def test_operators_without_the_right_to_set_secrets_are_left_out() -> None:
    names = ("ann", "amy", "bob", "eye", "gone", "")
    operators = tuple(Operator(name=f"{name}.x", age_recipient=f"{name}{KEY}", operator=name) for name in names)
    records = RecipientRecords((), {}, {}, operators)
    assert [one.operator for one in sealing.permitted(records, trust())] == ["ann", ""]
    assert [one.operator for one in sealing.permitted(records, trust(own=f"eye{KEY}"))] == ["ann", "eye", ""]


def test_error_names_recipients_and_how_to_approve_them(tmp_path: Path) -> None:
    node = sealing.of_node(Node(name="prod-4", uid="u1"), KEY)
    error = sealing.unconfirmed(EnvironmentRef("acme", "shop", "production"), [node], None)
    assert (error.code, error.exit_code) == ("recipients_unconfirmed", 2)
    assert error.findings[0].message == f"node prod-4, {KEY}"
    assert error.next_actions[0].command == f"devopsellence operator recipients approve --env {OWN}"


def test_confirmed_recipients_are_kept_by_cluster(tmp_path: Path) -> None:
    here, there = (KnownRecipients(tmp_path / "new" / "known-recipients", cluster) for cluster in ("a1", "b2"))
    assert here.load() == frozenset()
    here.add(["one", "two"])
    there.add(["three"])
    assert (here.load(), there.load()) == (frozenset({"one", "two"}), frozenset({"three"}))
    assert here.path.stat().st_mode & 0o777 == 0o600
