"""The bundle: reproducible, complete, and its programs run in it without anything of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from deploy.bundle import debian
from deploy.bundle.__main__ import Assembled, assemble, build
from deploy.bundle.archive import compress, sha256
from tests.support.need import lack
from tests.support.ports import free_ports
from tests.support.process import Program
from tests.support.until import until

# Two builds are part of the first test.
pytestmark = pytest.mark.timeout(600)
VERSION = metadata.version("devopsellence")
#: Mounts and then enters the tree: what systemd does for a unit, without the host's folders.
ENTER = (
    'for folder in dev proc sys; do mount --rbind "/$folder" "$0/$folder"; done; exec chroot "$0" /usr/bin/env -i "$@"'
)


@dataclass(frozen=True)
class Bundle:
    """An assembled bundle, and its archive unpacked as on a machine."""

    assembled: Assembled
    archive: Path
    root: Path
    downloads: Path

    def command(self, *words: str, **environ: str) -> list[str]:
        """Return the command that runs a program in the tree, with these variables alone."""
        variables = [f"{name}={value}" for name, value in environ.items()]
        return ["unshare", "--mount", "sh", "-euc", ENTER, str(self.root), *variables, *words]

    def run(self, *words: str) -> str:
        """Run a program in the tree with an empty environment; return stdout."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    if os.geteuid() != 0:
        lack("needs root: the bundle's programs run in their own root directory")
    missing = [name for name in ("apt-get", "dpkg", "dpkg-deb", "unshare", "xz") if shutil.which(name) is None]
    if missing:
        lack(f"needs {' and '.join(missing)} on PATH")
    work, target, downloads = (tmp_path_factory.mktemp(name) for name in ("bundle", "opt", "downloads"))
    try:
        debian.download([*debian.WANTED, *debian.ETCD], downloads)
    except debian.BuildFailed as error:
        lack(f"needs Debian's packages: {error}")
    assembled = assemble(work, downloads)
    shutil.rmtree(work / "tree")
    archive = work / f"{assembled.stem}.tar.xz"
    compress(assembled.tar, archive, 0)
    subprocess.run(["tar", "-xJf", str(archive), "-C", str(target)], check=True)
    yield Bundle(assembled, archive, target / VERSION, downloads)
    # A gigabyte, which pytest would keep for three runs.
    for folder in (work, target, downloads):
        shutil.rmtree(folder)


def test_second_build_has_the_same_bytes(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, with another umask, time zone, language and order of sets."""
    for name, value in {"TZ": "Asia/Tokyo", "LANG": "de_DE.UTF-8", "PYTHONHASHSEED": "7"}.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o077)
    try:
        again = assemble(tmp_path, bundle.downloads)
    finally:
        os.umask(before)
    assert again.texts == bundle.assembled.texts
    assert sha256(again.tar) == sha256(bundle.assembled.tar)
    shutil.rmtree(tmp_path)


def test_manifest_lists_exactly_what_is_unpacked(bundle: Bundle) -> None:
    document: dict[str, Any] = json.loads((bundle.root / "MANIFEST.json").read_text())
    assert document["version"] == VERSION
    found = [path for path in bundle.root.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {str(path.relative_to(bundle.root)): path for path in found}
    assert set(names) == {*document["files"], *document["links"], "MANIFEST.json"}
    for name, digest in document["files"].items():
        assert hashlib.sha256(names[name].read_bytes()).hexdigest() == digest, name
    assert {name: os.readlink(names[name]) for name in document["links"]} == document["links"]  # noqa: PTH115
    for name in document["files"]:
        stat = names[name].stat()
        assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) in ((0, 0, 0o644), (0, 0, 0o755)), name


def test_programs_tell_the_versions_of_the_manifest(bundle: Bundle) -> None:
    document = json.loads((bundle.root / "MANIFEST.json").read_text())
    for program in ("devopsellence", "devopsellence-agent", "devopsellence-controller"):
        assert bundle.run(f"/usr/bin/{program}", "--version").split()[-1] == VERSION
    assert bundle.run("/usr/bin/etcd", "--version").startswith(f"etcd Version: {document['etcd']}\n")
    assert bundle.run("/usr/bin/etcdctl", "version").startswith(f"etcdctl version: {document['etcd']}\n")
    assert f"/{document['envoy']}/" in bundle.run("/usr/bin/envoy", "--version")
    assert bundle.run("/usr/bin/python3", "--version") == f"Python {document['python']}\n"
    assert "install FOLDER" in bundle.run("/usr/bin/etcd.sh", "--help")
    assert "Usage" in bundle.run("/usr/bin/devopsellence-etcd-renew", "--help")
    assert bundle.run("/usr/sbin/iptables", "--version").startswith("iptables")


def test_authorities_units_and_envoys_libraries_are_found(bundle: Bundle) -> None:
    code = """
import importlib.resources
import ssl
from devopsellence.nodeagent.envoy import image
package = importlib.resources.files("devopsellence")
for name in ("py.typed", "deploy/etcd/etcd.sh", "deploy/systemd/devopsellence-agent.service"):
    assert package.joinpath(name).is_file(), name
assert len(ssl.create_default_context().get_ca_certs()) > 50
libraries = image.shared_libraries(image._program())
assert len(libraries) > 3 and all(library.is_file() for library in libraries), libraries
"""
    bundle.run("/usr/bin/python3", "-I", "-c", code)


def test_machine_enters_the_tree_with_its_own_folders(bundle: Bundle) -> None:
    done = subprocess.run(
        [str(bundle.root / "enter.sh"), "bash", "-c", "cat /etc/debian_version /host/etc/hostname; pwd; ls /run"],
        cwd="/run",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    hostname = Path("/etc/hostname").read_text()
    assert hostname in done.stdout
    assert "\n/run\n" in done.stdout
    assert not list((bundle.root / "run").iterdir()), "the mounts end with the program"


@pytest.fixture
def etcd(bundle: Bundle, tmp_path: Path) -> Iterator[str]:
    """Address of an etcd that runs in the tree."""
    port, peer_port = free_ports(2)
    address, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    command = bundle.command(
        *("/usr/bin/etcd", "--data-dir=/tmp/etcd", "--name=e1", f"--initial-cluster=e1={peer}"),
        *(f"--listen-client-urls={address}", f"--advertise-client-urls={address}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
    )
    program = Program(command, {"PATH": os.environ["PATH"]}, tmp_path / "etcd.log")
    program.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        program.end(signal.SIGTERM)


def test_controller_and_agent_work_with_the_etcd_of_the_bundle(bundle: Bundle, etcd: str, tmp_path: Path) -> None:
    def keys() -> str:
        words = ("/usr/bin/etcdctl", f"--endpoints={etcd}", "get", "--prefix", "--keys-only", "/devopsellence/v1/")
        done = subprocess.run(bundle.command(*words), capture_output=True, text=True, check=False, timeout=60)
        return done.stdout

    commands = {
        "controller": ["/usr/bin/devopsellence-controller"],
        "agent": [
            "/usr/bin/devopsellence-agent",
            "--node=n1",
            "--node-uid=uid-n1",
            "--state-dir=/var/lib/devopsellence",
            "--docker-host=unix:///run/no.sock",
        ],
    }
    programs = [
        Program(
            bundle.command(*words, DEVOPSELLENCE_ETCD_ENDPOINTS=etcd),
            {"PATH": os.environ["PATH"]},
            tmp_path / f"{name}.log",
        )
        for name, words in commands.items()
    ]
    try:
        for program in programs:
            program.start()
        until("the controller leads", lambda: "/election/controller/" in keys(), every=0.3)
        until("the agent's heartbeat", lambda: "/heartbeats/n1" in keys(), every=0.3)
        for program in programs:
            program.send(signal.SIGTERM)
            assert program.wait() == 0, program.log.read_text()
    finally:
        for program in programs:
            program.end()


def test_other_architecture_is_refused_plainly(tmp_path: Path) -> None:
    with pytest.raises(debian.BuildFailed, match="a bundle for mips cannot be built on this machine, which is"):
        build(tmp_path, tmp_path, architecture="mips")
