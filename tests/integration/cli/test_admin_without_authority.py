"""Admins without the cluster's folder: operators and tokens whose certificates a gateway signs."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from devopsellence.access.rights import Rights
from devopsellence.access.roles import Role
from devopsellence.api.v1.stored_pb2 import OperatorAccess
from devopsellence.certificates.facts import certificate_end
from devopsellence.certificates.pem import load_certificate
from devopsellence.cli.access_token import IDENTITY, Token
from devopsellence.cli.operators import tokens
from devopsellence.cli.operators.tokens import TokenOrder
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.settings import Settings
from tests.integration.cli.running_cluster import RunningCluster
from tests.support.authority import settings_with
from tests.support.cli import REF, Cli

pytestmark = pytest.mark.etcd
ALL = ("--role", "deployer", "--role", "exec", "--role", "admin")
FILES = {"ca.crt": 0o644, "tls.crt": 0o644, "tls.key": 0o600}


def admin(cluster: RunningCluster, tmp_path: Path, name: str, *roles: str) -> Cli:
    """Return the command line of a new operator on a machine without the authority."""
    words = ("operator", "add", name, *roles, "--pki", str(cluster.pki))
    cluster.cli.ok(*words, "--etcd-endpoints", cluster.endpoints)
    cli = cluster.as_party(f"operator-{name}")
    cli.environ["DEVOPSELLENCE_HOME"] = str(tmp_path / name)
    cli.environ[IDENTITY] = str(tmp_path / name / "operator.age")
    return cli


def owner(cluster: RunningCluster, folder: Path) -> Cli:
    """Return the command line with the certificate in a folder."""
    settings = settings_with(Settings((cluster.endpoints,)), CertificateFiles.in_folder(folder))
    return Cli(settings, cluster.cli.folder)


def refused(cli: Cli, *words: str) -> tuple[str, int]:
    error = cli.error(*words)
    return error["code"], error["exit_code"]


def test_admin_adds_operators_whose_keys_are_made_here(secured: RunningCluster, tmp_path: Path) -> None:
    amy = admin(secured, tmp_path, "amy", *ALL)
    add = ("operator", "add", "bob", "--role", "deployer", "--env", "acme/*", "--out", str(tmp_path / "bob"))
    made = amy.json(*add)
    assert (made["common_name"], made["outcome"], made["folder"]) == ("operator:bob", "made", str(tmp_path / "bob"))
    folder = tmp_path / "bob"
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == FILES
    assert not (tmp_path / "amy" / "cluster").exists()
    bob = owner(secured, folder)
    assert bob.json("operator", "list")["operators"][1]["operator"] == "bob"
    key, certificate = (folder / "tls.key").read_bytes(), load_certificate(folder / "tls.crt")
    assert amy.json(*add)["outcome"] == "kept"
    # A certificate that is lost is signed again, for the same key.
    (folder / "tls.crt").unlink()
    assert amy.json(*add)["outcome"] == "renewed"
    assert (folder / "tls.key").read_bytes() == key
    assert load_certificate(folder / "tls.crt").serial_number != certificate.serial_number
    # By default, where the authority would be.
    issued = amy.json("cluster", "issue", "operator", "cat")
    assert issued["folder"] == str(tmp_path / "amy" / "cluster" / "operator-cat")
    assert owner(secured, Path(issued["folder"])).json("node", "list")["nodes"] == []
    assert {entry["identity"] for entry in amy.json("cluster", "certificates")["certificates"]} >= {"operator:bob"}


def test_roles_beyond_the_admins_own_are_refused_before_anything_is_written(
    secured: RunningCluster, tmp_path: Path
) -> None:
    max_ = admin(secured, tmp_path, "max", "--role", "admin")
    out = tmp_path / "out"
    words: Sequence[str]
    for words in (
        ("operator", "add", "eve", "--role", "deployer", "--out", str(out)),
        ("cluster", "issue", "operator", "eve", "--out", str(out)),
        ("operator", "token", "create", "eve", "--env", "*", "--role", "deployer", "--expires", "1h"),
    ):
        assert refused(max_, *words) == ("etcd_permission_denied", 1), words
    max_.json("operator", "add", "vic", "--role", "viewer", "--out", str(out))
    viewer = owner(secured, out)
    assert refused(viewer, "operator", "add", "eve", "--role", "viewer", "--out", str(tmp_path / "eve")) == (
        "etcd_permission_denied",
        1,
    )
    assert not (tmp_path / "eve").exists()
    assert secured.as_party("root").read(lambda etcd: etcd.keys.operator_access("eve"), OperatorAccess) is None
    create = ("operator", "token", "create", "--env", "*", "--role", "viewer")
    wrong: list[tuple[Sequence[str], str]] = [
        (("operator", "add", "a/b", "--role", "viewer"), "invalid_name"),
        (("cluster", "issue", "operator", "a/b"), "invalid_name"),
        ((*create, "x" * 60, "--expires", "1h"), "invalid_name"),
        ((*create, "ci", "--expires", "91d"), "usage"),
        ((*create, "ci", "--expires", "1m"), "usage"),
    ]
    for words, code in wrong:
        assert refused(max_, *words) == (code, 2), words
    # etcd itself signs nothing: the access is there, and the same command completes it at a gateway.
    root = secured.as_party("root", at_etcd=True)
    root.environ["DEVOPSELLENCE_HOME"] = str(tmp_path / "root")
    add = ("operator", "add", "eve", "--role", "viewer", "--out", str(tmp_path / "eve"))
    error = root.error(*add)
    assert error["code"] == "signing_unavailable"
    assert error["message"].startswith("eve has access, but no certificate yet: ")
    max_.json(*add)
    assert owner(secured, tmp_path / "eve").json("node", "list")["nodes"] == []
    bare = Cli(secured.cli.settings, secured.cli.folder)
    assert refused(bare, *add) == ("authority_missing", 1)


def test_admin_creates_a_token_that_sets_secrets(secured: RunningCluster, tmp_path: Path) -> None:
    amy = admin(secured, tmp_path, "amy", *ALL)
    create = ("operator", "token", "create", "ci", "--env", "production", "--role", "deployer", "--expires", "12h")
    created = amy.json(*create)
    token = Token.parse(created["token"])
    left = certificate_end(token.certificate.encode()) - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(hours=11) < left <= datetime.timedelta(hours=12)
    ci = secured.job(created["token"])
    assert ci.json("secret", "set", "TOKEN", "--service", "worker", "--value", "x")["version"] == 1
    reasons = {entry["operator"]: entry["reason"] for entry in ci.json("operator", "recipients", "list")["recipients"]}
    assert reasons["ci"] == "yours"
    shown: list[dict[str, Any]] = amy.json("operator", "token", "list")["tokens"]
    assert [(entry["serial"], entry["state"]) for entry in shown] == [(created["serial"], "valid")]
    # For a fixed term: whoever has it can have nothing signed.
    extended = refused(secured.job(created["token"]), "operator", "add", "eve", "--role", "viewer")
    assert extended == ("etcd_permission_denied", 1)
    assert amy.json("operator", "token", "revoke", "ci", "-y")["serials"] == [created["serial"]]
    assert refused(ci, "status") == ("etcd_permission_denied", 1)


def test_interrupted_token_is_completed_or_revoked(secured: RunningCluster, tmp_path: Path) -> None:
    amy = admin(secured, tmp_path, "amy", *ALL)
    create = ("operator", "token", "create", "ci", "--env", str(REF), "--role", "deployer", "--expires", "12h")
    order = TokenOrder("ci", Rights(frozenset({(Role.DEPLOYER, str(REF))})), datetime.timedelta(hours=12))

    def interrupt() -> None:
        amy.etcd(lambda etcd: tokens.begin(etcd, order))
        assert amy.json("operator", "token", "list")["tokens"] == []
        assert amy.json("operator", "list")["operators"][1]["token"]

    interrupt()
    # It never becomes a person's name, with whatever roles.
    for role, where in (("viewer", "*"), ("deployer", str(REF))):
        words = ("operator", "add", "ci", "--role", role, "--env", where, "--out", str(tmp_path / "x"))
        assert refused(amy, *words)[0] == "operator_exists"
    created = amy.json(*create)
    assert [entry["serial"] for entry in amy.json("operator", "token", "list")["tokens"]] == [created["serial"]]
    secured.job(created["token"]).json("status")
    amy.json("operator", "token", "revoke", "ci", "-y")
    interrupt()
    assert amy.json("operator", "token", "revoke", "ci", "-y")["serials"] == []
    assert secured.as_party("root").read(lambda etcd: etcd.keys.operator_access("ci"), OperatorAccess) is None
