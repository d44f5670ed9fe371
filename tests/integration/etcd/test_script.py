"""``etcd.sh`` without an etcd: installed files, and errors about missing arguments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.etcd.secured_cluster import SCRIPT
from tests.support.cli import NO_DEV_CLUSTER, Cli
from tests.support.need import lack, need_etcd


def script(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    bare = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ}
    return subprocess.run([str(SCRIPT), *words], env=bare, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def pki(cli: Cli, tmp_path: Path) -> Path:
    cli.environ = {"DEVOPSELLENCE_HOME": NO_DEV_CLUSTER}
    cli.ok(
        "cluster", "init", "--no-passphrase", "--pki", str(tmp_path / "pki"), "--etcd=e1=10.0.0.1", "--etcd=e2=10.0.0.2"
    )
    return tmp_path / "pki"


@pytest.mark.parametrize("asked", ["", "--help", "-h"])
def test_help_names_every_command(asked: str) -> None:
    done = script(*filter(None, [asked]))
    assert done.returncode == 0
    text = SCRIPT.read_text()
    commands = text[text.index('case "$command" in') :]
    for command in ("install", "restore", "status", "snapshot", "defrag", "free", "add", "replace"):
        assert f"\n  {command} " in done.stdout or f"\n  {command}\n" in done.stdout
        assert command in commands


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["status"], "ETCDCTL_ENDPOINTS", id="nowhere"),
        pytest.param(["restore", "/nonexistent/a.db"], "/nonexistent/a.db", id="no snapshot"),
        pytest.param(["install", "/nonexistent"], "/nonexistent", id="no folder"),
    ],
)
def test_missing_arguments_are_named(words: list[str], expected: str) -> None:
    need_etcd()
    done = script(*words)
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_command_is_a_usage_error() -> None:
    assert script("defragment").returncode == 2


def test_install_puts_files_and_units_in_place_and_may_be_repeated(pki: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        lack("needs root, as on a member's machine")
    root = tmp_path / "root"
    for _ in range(2):
        done = script("install", str(pki / "etcd-e1"), "--snapshots", str(pki / "root"), DESTDIR=str(root))
        assert done.returncode == 0, done.stderr
    home = root / "etc" / "etcd" / "devopsellence"
    modes = {str(each.relative_to(home)): each.stat().st_mode & 0o777 for each in home.rglob("*") if each.is_file()}
    assert modes == {
        "etcd.env": 0o644,
        "ca.crt": 0o644,
        "tls.crt": 0o644,
        "tls.key": 0o400,
        "root/ca.crt": 0o400,
        "root/tls.crt": 0o400,
        "root/tls.key": 0o400,
    }
    assert (home / "root").stat().st_mode & 0o777 == 0o700
    assert (home / "tls.key").read_bytes() == (pki / "etcd-e1" / "tls.key").read_bytes()
    assert os.access(root / "usr/local/lib/devopsellence/etcd.sh", os.X_OK)
    assert sorted(each.name for each in (root / "etc/systemd/system").iterdir()) == [
        "devopsellence-etcd-renew.service",
        "devopsellence-etcd-renew.timer",
        "devopsellence-etcd-snapshot.service",
        "devopsellence-etcd-snapshot.timer",
        "devopsellence-etcd.service",
    ]
