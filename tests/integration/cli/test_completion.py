"""Completion of names in etcd, and its silence while etcd is away."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from devopsellence.cli.main import main
from tests.integration.cli import secret_operator
from tests.support.cli import Cli
from tests.support.process import python_environ


def complete(cli: Cli, line: str, **environ: str) -> list[str]:
    """Return the completions of ``line``, typed up to its end; nothing may reach stderr."""
    variables = {
        **cli.environ,
        **environ,
        "_DEVOPSELLENCE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    done = CliRunner(env=variables).invoke(main, [])
    assert (done.exit_code, done.stderr) == (0, "")
    return [item.partition(",")[2] for item in done.stdout.splitlines() if item]


@pytest.fixture
def deployed(shop: Cli) -> Cli:
    """Two releases on one of two nodes."""
    for node in ("prod-1", "prod-2"):
        shop.ok("node", "register", node)
    shop.ok("node", "attach", "prod-1")
    for _ in range(2):
        shop.ok("deploy", "--detach")
    return shop


def test_names_in_etcd_are_offered(deployed: Cli) -> None:
    assert complete(deployed, "devopsellence node drain ") == ["prod-1", "prod-2"]
    assert complete(deployed, "devopsellence node rm prod-2") == ["prod-2"]
    assert complete(deployed, "devopsellence logs --node p") == ["prod-1", "prod-2"]
    assert complete(deployed, "devopsellence release rollback ") == ["2", "1"]
    assert complete(deployed, "devopsellence status --env ") == ["production"]


def test_names_in_etcd_are_offered_in_any_folder(
    deployed: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert complete(deployed, "devopsellence status --env ") == ["acme/Shop/production"]
    assert complete(deployed, "devopsellence exec ") == ["web"]
    assert complete(deployed, "devopsellence release show --env acme/Shop/production ") == ["2", "1"]
    assert complete(deployed, "devopsellence release show --env acme/Shop/nowhere ") == []


def test_stored_secrets_are_offered_by_service(ann: secret_operator.Operator) -> None:
    ann.set("DATABASE_URL", b"value")
    assert complete(ann, "devopsellence secret delete --service web ") == ["DATABASE_URL"]
    assert "DATABASE_URL" not in complete(ann, "devopsellence secret delete --service worker ")


def test_etcd_that_does_not_answer_is_not_waited_for(deployed: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        away = replace(deployed.settings, endpoints=(f"127.0.0.1:{silent.getsockname()[1]}",)).to_environ()
        assert complete(deployed, "devopsellence node drain ", **away) == []
        # The configuration needs no etcd.
        assert complete(deployed, "devopsellence status --env ", **away) == ["production"]


def test_refused_connection_is_silent(deployed: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    away = replace(deployed.settings, endpoints=(f"127.0.0.1:{port}",)).to_environ()
    assert complete(deployed, "devopsellence node drain ", **away) == []


def test_script_completes_in_bash(deployed: Cli, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "devopsellence"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m devopsellence.cli "$@"\n')
    program.chmod(0o755)
    script = (
        "source <(devopsellence completion bash); COMP_WORDS=(devopsellence node drain prod); COMP_CWORD=3; "
        '_devopsellence_completion devopsellence; echo "${COMPREPLY[@]}"'
    )
    environ = {**os.environ, **deployed.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=python_environ(environ), capture_output=True, text=True, check=True
    )
    assert (done.stdout.split(), done.stderr) == (["prod-1", "prod-2"], "")
