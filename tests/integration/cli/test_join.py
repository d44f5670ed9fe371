"""A node from its registration to its running agent by a join token, with the real commands; and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from devopsellence.certificates.facts import common_name
from devopsellence.certificates.join_token import JoinToken
from devopsellence.certificates.pem import load_certificate
from devopsellence.store.settings_file import AGENT_ARGUMENTS
from tests.integration.cli.running_cluster import RunningCluster, variables_of
from tests.support.need import need_docker
from tests.support.process import python_environ

pytestmark = pytest.mark.etcd
FILES = {"agent.env": 0o644, "ca.crt": 0o644, "tls.crt": 0o644, "tls.key": 0o600}


def start(token: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start the join with a token from standard input."""
    command = [sys.executable, "-m", "devopsellence.nodeagent", "join", "--folder", str(folder), *words]
    process = subprocess.Popen(
        command,
        env=python_environ(dict(os.environ)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(token)
    process.stdin.close()
    process.stdin = None
    return process


def result(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return exit code and output, of which errors are one line."""
    output, errors = process.communicate(timeout=60)
    assert len(errors.splitlines()) == (1 if process.returncode else 0), errors
    return process.returncode, output + errors


def join(token: str, folder: Path, *words: str) -> tuple[int, str]:
    return result(start(token, folder, *words))


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mode & 0o777, path.read_bytes()) for path in folder.iterdir()}


def register(cluster: RunningCluster, name: str, *words: str, by: str = "root") -> dict[str, Any]:
    return cluster.as_party(by).json("node", "register", name, *words)


def test_registered_machine_joins_and_its_agent_runs(started: RunningCluster, tmp_path: Path) -> None:
    need_docker()
    document, folder = register(started, "n1", "--address", "127.0.0.1"), tmp_path / "etc"
    text = started.as_party("root").ok("node", "register", "n1", "--address", "127.0.0.1")
    token = JoinToken.parse(document["join_token"])
    assert (token.node, token.uid, token.endpoints) == ("n1", document["uid"], (started.endpoints,))
    assert document["join_command"] == f"echo {document['join_token']} | devopsellence-agent join"
    assert document["bundle"] is None
    assert "  echo devopsellence-join-1-" in text
    assert "| devopsellence-agent join\n  systemctl enable --now devopsellence-agent\n" in text
    code, output = join(document["join_token"] + "\n", folder)
    assert code == 0, output
    assert output.startswith(f"This machine is node n1; its certificate in {folder} is valid until ")
    assert {name: mode for name, (mode, _) in content(folder).items()} == FILES
    assert folder.stat().st_mode & 0o777 == 0o700
    assert common_name(load_certificate(folder / "tls.crt")) == f"node:{document['uid']}"
    variables = variables_of(folder / "agent.env", {}, {})
    assert shlex.split(variables[AGENT_ARGUMENTS]) == shlex.split(document["agent_command"])[1:-8]
    assert variables["DEVOPSELLENCE_ETCD_KEY"] == str(folder / "tls.key")
    with started.agent({**document, "bundle": str(folder)}, tmp_path / "state"):
        assert started.as_party("root").json("node", "list")["nodes"][0]["note"] == ""
    # Once, with the key that it was used for.
    other = tmp_path / "other"
    assert join(document["join_token"], other) == (
        1,
        "devopsellence-agent join: the cluster refuses the token: the join token was used before\n",
    )
    assert not other.exists()


def test_unusable_tokens_and_folders_leave_no_file(started: RunningCluster, tmp_path: Path) -> None:
    first, folder = register(started, "n1"), tmp_path / "etc"
    token = first["join_token"]
    for text, problem in (
        ("", "it does not begin with devopsellence-join-1-"),
        ("hunter2", "it does not begin with devopsellence-join-1-"),
        (token[:-9], "it is cut or damaged"),
        ("\xff", "it is not text"),
    ):
        assert join(text, folder) == (2, f"devopsellence-agent join: the token cannot be used: {problem}\n")
    code, output = result(start("", folder, token))
    assert (code, token in output) == (2, False)
    assert "every user of this machine can see a token on the command line" in output
    code, output = join("", folder, "--token-file", str(tmp_path / "missing"))
    assert (code, "cannot read" in output) == (2, True)
    # The folder of another machine, and a node that another machine replaces.
    second = register(started, "n2")
    assert not folder.exists()
    assert join(second["join_token"], folder)[0] == 0
    before = content(folder)
    code, output = join(token, folder)
    assert code == 2
    assert f"{folder} has the certificate of node:{second['uid']}, and the token is for another machine" in output
    assert content(folder) == before
    started.as_party("root").json("node", "register", "n1", "--replace", "-y")
    code, output = join(token, folder, "--replace")
    assert code == 1
    assert output.endswith("the join token is void: the node was removed, or registered anew for another machine\n")
    assert content(folder) == before
    third = register(started, "n1")
    code, output = join(third["join_token"], folder, "--replace")
    assert code == 0, output
    assert common_name(load_certificate(folder / "tls.crt")) == f"node:{third['uid']}"
    # A new token for the same machine needs no --replace.
    assert join(register(started, "n1")["join_token"], folder)[0] == 0


def test_interrupted_join_is_repeated_with_the_same_token(started: RunningCluster, tmp_path: Path) -> None:
    token, folder = register(started, "n1")["join_token"], tmp_path / "etc"
    # The files cannot be written after the gateway has signed.
    (folder / "agent.env").mkdir(parents=True)
    code, output = join(token, folder)
    assert code == 1, output
    assert "cannot write the files" in output
    attempt = folder / ".join"
    assert attempt.stat().st_mode & 0o777 == 0o600
    key = json.loads(attempt.read_text())["key"]
    (folder / "agent.env").rmdir()
    # Also after another that reached no gateway.
    elsewhere = JoinToken(**{**JoinToken.parse(token).__dict__, "endpoints": ("127.0.0.1:1",)})
    assert join(elsewhere.text(), folder)[0] == 1
    assert join(token, folder)[0] == 0
    assert {name: mode for name, (mode, _) in content(folder).items()} == FILES
    assert (folder / "tls.key").read_text() == key


@pytest.mark.parametrize("where", [["a", "b", "c"], ["a", "a", "a"]], ids=["several machines", "one machine"])
def test_several_joins_at_once_have_one_winner(started: RunningCluster, tmp_path: Path, where: Sequence[str]) -> None:
    token = register(started, "n1")["join_token"]
    processes = [start(token, tmp_path / name) for name in where]
    results = [result(process) for process in processes]
    winners = [output for code, output in results if code == 0]
    # On one machine a later one may find the folder unlocked again, with the token used for another key.
    assert len(winners) == 1, results
    folders = [tmp_path / name for name in dict.fromkeys(where) if (tmp_path / name).exists()]
    assert len(folders) == 1
    assert {name: mode for name, (mode, _) in content(folders[0]).items()} == FILES


def test_missing_gateway_is_one_sentence(started: RunningCluster, tmp_path: Path) -> None:
    token = JoinToken.parse(register(started, "n1")["join_token"])
    elsewhere = JoinToken(**{**token.__dict__, "endpoints": ("127.0.0.1:1",)})
    code, output = join(elsewhere.text(), tmp_path / "etc")
    assert code == 1
    assert output.startswith("devopsellence-agent join: no gateway can be used: ")
    other = JoinToken(**{**token.__dict__, "key": "-----BEGIN PRIVATE KEY-----\n"})
    assert join(other.text(), tmp_path / "etc") == (
        2,
        "devopsellence-agent join: the token cannot be used: its certificate and key do not fit each other\n",
    )
    assert not (tmp_path / "etc").exists()
