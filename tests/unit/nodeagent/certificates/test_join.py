"""Joining without a gateway: time, folders, and sentences about refusals."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateAuthority
from devopsellence.certificates.join_token import JoinToken, UnusableToken
from devopsellence.nodeagent.__main__ import main as agent
from devopsellence.nodeagent.certificates.join import FolderInUse, NodeFolder, check_time, join, owner_of
from devopsellence.nodeagent.join_command import refusal
from devopsellence.store.errors import Ambiguous, NotServed, PermissionDenied, Rejected, Unavailable

NOW = datetime.datetime.now(datetime.UTC)
ROOT = CertificateAuthority.create("root", NOW)


def token_at(moment: datetime.datetime) -> JoinToken:
    issued = ROOT.issue(subjects.join_token("n1", "u1"), moment, life=datetime.timedelta(hours=1))
    return JoinToken(
        endpoints=("127.0.0.1:1",),
        authority=ROOT.trusted.decode(),
        certificate=issued.certificate.decode(),
        key=issued.key.decode(),
        node="n1",
        uid="u1",
        arguments=("--node", "n1"),
    )


def test_token_is_good_for_an_hour() -> None:
    token = token_at(NOW)
    check_time(token, NOW + datetime.timedelta(minutes=59))
    with pytest.raises(UnusableToken, match="create another with devopsellence node register n1"):
        check_time(token, NOW + datetime.timedelta(minutes=61))


def test_expired_token_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UnusableToken, match="it was valid until"):
        join(token_at(NOW - datetime.timedelta(hours=2)), NodeFolder(tmp_path / "etc"), replace=False)
    assert not list(tmp_path.iterdir())


def test_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path)
    assert owner_of(folder) == ""
    folder.files.certificate.write_bytes(ROOT.issue(subjects.node("n2", "u2"), NOW).certificate)
    assert owner_of(folder) == "node:u2"
    with pytest.raises(FolderInUse, match="has the certificate of node:u2"):
        join(token_at(NOW), folder, replace=False)
    folder.files.certificate.write_text("nonsense")
    with pytest.raises(FolderInUse, match="cannot be read"):
        join(token_at(NOW), folder, replace=False)
    assert [path.name for path in tmp_path.iterdir()] == ["tls.crt"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            PermissionDenied("join (etcd at a:1): etcdserver: permission denied: the join token was used before"),
            "the cluster refuses the token: the join token was used before",
        ),
        (
            Rejected("join (etcd at a:1): gateway: the signing request is malformed"),
            "the cluster refuses the token: the signing request is malformed",
        ),
        (Ambiguous("no answer"), "no gateway confirmed in time; run the same command again: no answer"),
        (NotServed("Method not found!"), "this gateway signs no certificates; copy the folder of the node instead"),
        (Unavailable("a:1 is away"), "no gateway can be used: a:1 is away"),
    ],
)
def test_refusal_is_one_sentence(error: Exception, sentence: str) -> None:
    assert refusal(error) == sentence


def test_agent_has_a_command_to_join() -> None:
    assert "devopsellence-agent join --help" in CliRunner().invoke(agent, ["--help"]).output.replace("\n  ", " ")
    shown = CliRunner().invoke(agent, ["join", "--help"])
    assert shown.exit_code == 0
    assert "| devopsellence-agent join" in shown.output
    unused = CliRunner().invoke(agent, ["join"], input="hunter2")
    assert unused.exit_code == 2
    assert "hunter2" not in unused.output
