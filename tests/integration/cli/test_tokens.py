"""Tokens through a gateway: created with the cluster's authority, used by a job, bounded by roles, revoked."""

from __future__ import annotations

import datetime
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devopsellence.age import AgeIdentity
from devopsellence.api.v1.stored_pb2 import Operator, OperatorAccess, Secret
from devopsellence.certificates.facts import certificate_end
from devopsellence.cli.access_token import IDENTITY, TOKEN, TOKEN_FILE, Token
from tests.integration.cli.running_cluster import RunningCluster
from tests.support.cli import NO_DEV_CLUSTER, REF, Cli

pytestmark = pytest.mark.etcd

DEPLOYER = ("--env", "production", "--role", "deployer", "--expires", "12h")


def create(cluster: RunningCluster, name: str, *words: str) -> dict[str, Any]:
    arguments = ("operator", "token", "create", name, *words)
    return cluster.cli.json(*arguments, "--pki", str(cluster.pki), "--etcd-endpoints", cluster.endpoints)


def refused(cluster: RunningCluster, name: str, *words: str) -> tuple[str, int]:
    arguments = ("operator", "token", "create", name, *words)
    error = cluster.cli.error(*arguments, "--pki", str(cluster.pki), "--etcd-endpoints", cluster.endpoints)
    return error["code"], error["exit_code"]


def test_token_sets_secrets_of_its_environment_and_nothing_else(secured: RunningCluster) -> None:
    before = datetime.datetime.now(datetime.UTC)
    created = create(secured, "ci", *DEPLOYER)
    token = Token.parse(created["token"])
    assert token.environment == str(REF)
    end = certificate_end(token.certificate.encode())
    assert end - before <= datetime.timedelta(hours=12, seconds=5)
    ci = secured.job(created["token"])
    assert ci.json("status")["environment"]["environment"] == REF.environment
    assert ci.json("secret", "set", "TOKEN", "--service", "worker", "--value", "x")["version"] == 1
    checks = ci.run("doctor").stdout
    assert "warn  certificate: the certificate in the token expires in 0 days\n      create another token" in checks, (
        checks
    )
    assert "ok    identity: the identity in the token\n" in checks, checks
    # Set by the identity in the token, which decrypts it.
    assert ci.json("secret", "list")["secrets"][0]["name"] == "TOKEN"
    secret = ci.read(lambda etcd: etcd.keys.secret(REF, "worker", "TOKEN"), Secret)
    assert secret is not None
    assert AgeIdentity(token.identity).decrypt(secret.versions[0].age) == b"x"
    assert not Path(NO_DEV_CLUSTER).exists()
    for words in (
        ("node", "register", "n9"),
        ("operator", "grant", "ci", "--role", "exec", "--env", "*"),
        ("operator", "remove", "ci", "-y"),
        ("node", "attach", "n1"),
    ):
        assert ci.error(*words)["code"] in {"etcd_permission_denied", "node_unknown"}, words
    assert ci.error("status", "--env", "staging")["code"] == "environment_elsewhere"
    # The gateway refuses as well, whatever the command line says.
    stolen = Token(**{**token.__dict__, "environment": ""})
    assert secured.job(stolen.text()).error("status", "--env", "staging")["code"] == "etcd_permission_denied"
    assert [entry["operator"] for entry in ci.json("operator", "list")["operators"]] == ["ci"]


def test_token_is_listed_and_revoked_and_its_name_used_again(secured: RunningCluster) -> None:
    root = secured.as_party("root")
    assert root.ok("operator", "token", "list") == "There is no token.\n"
    first, second = create(secured, "ci", *DEPLOYER), create(secured, "ci", *DEPLOYER)
    shown = root.json("operator", "token", "list")["tokens"]
    assert [(entry["serial"], entry["state"]) for entry in shown] == [
        (first["serial"], "valid"),
        (second["serial"], "valid"),
    ]
    assert root.json("operator", "list")["operators"][0]["token"]
    # One of two, by its serial number; its end is known from the record.
    root.ok("operator", "deny", first["serial"], "-y")
    assert secured.job(first["token"]).error("status")["message"].startswith("access denied: the certificate of")
    secured.job(second["token"]).json("status")
    denied = root.json("operator", "list")["denied"]
    assert denied[0]["expires_at"] == shown[0]["expires_at"]
    states = [entry["state"] for entry in root.json("operator", "token", "list")["tokens"]]
    assert states == ["denied", "valid"]
    assert recipient_names(root) == {second["recipient"]}
    assert not root.json("operator", "token", "revoke", "ci", "--dry-run")["revoked"]
    assert root.json("operator", "token", "revoke", "ci", "-y")["serials"] == [first["serial"], second["serial"]]
    assert secured.job(second["token"]).error("status")["code"] == "etcd_permission_denied"
    assert root.read(lambda etcd: etcd.keys.operator_access("ci"), OperatorAccess) is None
    assert recipient_names(root) == set()
    third = create(secured, "ci", *DEPLOYER)
    secured.job(third["token"]).json("status")
    assert secured.job(second["token"]).error("status")["code"] == "etcd_permission_denied"


def test_expired_token_is_forgotten_with_the_next_one(secured: RunningCluster) -> None:
    root = secured.as_party("root")
    first = create(secured, "ci", *DEPLOYER)
    record = root.read(lambda etcd: etcd.keys.operator_access("ci"), OperatorAccess)
    assert record is not None
    record.tokens[0].expires_at.FromDatetime(datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1))
    root.write(lambda etcd: etcd.keys.operator_access("ci"), record)
    assert root.json("operator", "token", "list")["tokens"][0]["state"] == "expired"
    second = create(secured, "ci", *DEPLOYER)
    assert [entry["serial"] for entry in root.json("operator", "token", "list")["tokens"]] == [second["serial"]]
    assert recipient_names(root) == {second["recipient"]} != {first["recipient"]}


def recipient_names(cli: Cli) -> set[str]:
    listing = cli.etcd(lambda etcd: etcd.list(etcd.keys.operators_prefix, keys_only=True))
    return {item.key.rpartition("/")[2] for item in listing.items}


def test_token_of_a_viewer_has_no_identity(secured: RunningCluster) -> None:
    created = create(secured, "eye", "--env", "acme/*", "--role", "viewer", "--expires", "1h")
    token = Token.parse(created["token"])
    assert (token.identity, token.environment) == ("", "")
    eye = secured.job(created["token"])
    assert eye.json("status")["ok"]
    assert (
        eye.error("secret", "set", "TOKEN", "--service", "worker", "--value", "x")["code"] == "etcd_permission_denied"
    )
    assert eye.read(lambda etcd: etcd.keys.operator("eye"), Operator) is None


def test_file_of_a_token_is_private_and_new(secured: RunningCluster, tmp_path: Path) -> None:
    path = tmp_path / "ci.token"
    document = create(secured, "ci", *DEPLOYER, "--out", str(path))
    assert "token" not in document
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ci = secured.job("")
    del ci.environ[TOKEN]
    ci.environ[TOKEN_FILE] = str(path)
    ci.json("status")
    assert refused(secured, "ci", *DEPLOYER, "--out", str(path)) == ("token_file_exists", 2)
    unused = tmp_path / "unused"
    assert refused(secured, "ci", "--env", "*", "--role", "admin", "--expires", "1h", "--out", str(unused))[0] == (
        "operator_exists"
    )
    assert not unused.exists()
    assert refused(secured, "ci", *DEPLOYER, "--out", str(tmp_path / "no" / "x")) == ("token_file_unwritable", 2)
    assert refused(secured, "ci", *DEPLOYER[:-1], "9y") == ("usage", 2)
    assert refused(secured, "ci", *DEPLOYER[:-1], "366d") == ("usage", 2)
    assert refused(secured, "a/b", *DEPLOYER) == ("invalid_name", 2)
    assert refused(secured, "x" * 60, *DEPLOYER) == ("invalid_name", 2)
    secured.ok("issue", "operator", "ann")
    assert (
        refused(
            secured, "ann", "--env", "*", "--role", "deployer", "--role", "admin", "--role", "exec", "--expires", "1h"
        )[0]
        == "operator_exists"
    )


def test_errors_show_nothing_of_a_token(secured: RunningCluster) -> None:
    token = create(secured, "ci", *DEPLOYER)["token"]
    content = Token.parse(token)
    command = [sys.executable, "-m", "devopsellence.cli", "deploy", "--debug", "-o", "json"]
    environ = secured.job(token).process_environ()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=secured.cli.folder)
    assert done.returncode == 1, done.stderr
    for private in (token, content.key.splitlines()[1], content.identity.splitlines()[-1]):
        assert private not in done.stdout + done.stderr
    damaged = subprocess.run(
        command,
        env={**environ, TOKEN: token[:-40]},
        capture_output=True,
        text=True,
        check=False,
        cwd=secured.cli.folder,
    )
    assert json.loads(damaged.stdout.splitlines()[-1])["error"]["code"] == "token_invalid"
    assert token[60:100] not in damaged.stdout + damaged.stderr


def test_recipients_of_added_operators_and_tokens_raise_no_question(secured: RunningCluster, tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        words = ("operator", "add", name, "--role", "deployer", "--pki", str(secured.pki))
        secured.cli.ok(*words, "--etcd-endpoints", secured.endpoints)
    clis = [secured.job(create(secured, "ci", *DEPLOYER)["token"])]
    for name in ("root", "operator-ann", "operator-bob"):
        cli = secured.as_party(name)
        cli.environ[IDENTITY] = str(tmp_path / name / "operator.age")
        clis.append(cli)
    # The second time, each knows of all others.
    for number, cli in enumerate([*clis, *clis], 1):
        value = ("--value", str(number))
        assert cli.json("secret", "set", "TOKEN", "--service", "worker", *value)["version"] == number
    secret = clis[0].read(lambda etcd: etcd.keys.secret(REF, "worker", "TOKEN"), Secret)
    assert secret is not None
    assert len(secret.versions[-1].recipients) == 4
    reasons = {entry["operator"]: entry["reason"] for entry in recipients(clis[2])}
    assert reasons == {
        None: "approved by root",
        "ann": "yours",
        "bob": "of bob, who was added by an admin",
        "ci": "approved by root",
    }
    # A token of another environment is no recipient here, and a job never confirms anything.
    staging = ("--env", "acme/Shop/staging", "--role", "deployer", "--expires", "1h")
    secured.job(create(secured, "other", *staging)["token"]).json(
        "secret", "set", "TOKEN", "--service", "worker", *value
    )
    assert "other" not in {entry["operator"] for entry in recipients(clis[2])}
    forged = Operator(name="eve.x-1", age_recipient=AgeIdentity.generate().recipient)
    clis[0].write(lambda etcd: etcd.keys.operator(forged.name), forged)
    error = clis[0].error("secret", "set", "TOKEN", "--service", "worker", "--value", "9")
    assert (error["code"], error["exit_code"]) == ("recipients_unconfirmed", 2)


def recipients(cli: Cli) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = cli.json("operator", "recipients", "list")["recipients"]
    return shown
