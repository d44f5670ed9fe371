"""Debian packages: resolved and downloaded by apt, unpacked without being installed.

Nothing is changed on this machine, no script of a package runs, and no rights are needed. apt checks signatures and
hashes.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Final

#: Packages of the tree, with their dependencies.
WANTED: Final = (
    *("base-files", "ca-certificates", "libc-bin", "netbase"),
    *("python3-minimal", "libpython3-stdlib"),
    # The script etcd.sh.
    *("bash", "coreutils", "findutils", "grep", "mawk", "sed", "util-linux"),
    # The wheels of grpcio and pyrage.
    "libstdc++6",
    # `node diagnose`.
    "iptables",
)
ETCD: Final = ("etcd-server", "etcd-client")
#: Dependencies that nothing here needs: what installs and configures packages, and libraries of files left out below.
#: ``tree`` checks afterwards that no library is missing.
NOT_NEEDED: Final = (
    *("adduser", "debconf", "debianutils", "dpkg", "init-system-helpers", "login", "lsb-base", "mailcap"),
    *("media-types", "openssl", "passwd", "perl-base", "sysvinit-utils", "tar", "util-linux-extra"),
    *("libblkid1", "libcap-ng0", "libmount1", "libpam-runtime", "libpam0g", "libsmartcols1", "libsystemd0"),
    *("libudev1", "libdb5.3", "libncursesw6", "libnsl2", "libreadline8", "libsqlite3-0", "libtirpc3"),
    *("libdb5.3t64", "libpam0g-bin", "libreadline8t64", "libsqlite3-0t64", "libtirpc3t64", "libudev1t64"),
)
#: Files that are left out of every package.
LEFT_OUT: Final = (
    *("etc/apt/*", "etc/cron*", "etc/default/*", "etc/init.d/*", "etc/logcheck/*", "etc/pam.d/*", "etc/skel/*"),
    *("etc/update-motd.d/*", "etc/xattr.conf", "usr/lib/systemd/*", "usr/lib/udev/*", "usr/lib/valgrind/*"),
    *("usr/share/bash-completion/*", "usr/share/bug/*", "usr/share/info/*", "usr/share/lintian/*"),
    *("usr/share/locale/*", "usr/share/man/*", "usr/share/perl5/*", "usr/share/pixmaps/*", "usr/share/menu/*"),
    *("usr/share/gcc/*", "usr/share/gdb/*", "usr/share/binfmts/*", "usr/share/applications/*"),
    *("usr/share/python3/debpython/*", "usr/share/python3/runtime.d/*", "usr/bin/py3*", "usr/share/python3/py3*"),
    *("usr/lib/*/gconv/*", "usr/bin/gdbm*", "usr/sbin/iptables-apply", "usr/sbin/ip6tables-apply"),
    # Python modules whose libraries are not needed otherwise.
    *(
        f"usr/lib/python3.*/lib-dynload/{name}.cpython-*"
        for name in ("_curses", "_curses_panel", "_dbm", "_sqlite3", "nis", "readline", "_tkinter", "_testcapi")
    ),
)
#: Packages of which only some files are wanted, beside their licence.
ONLY: Final = {"util-linux": ("usr/bin/flock",)}
_LICENCE: Final = "usr/share/doc/*/copyright"
#: Folders of the root that are links into /usr.
_MERGED: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


class BuildFailed(Exception):
    """The bundle cannot be built here; the message says why and how to fix it."""


@dataclass(frozen=True)
class DebianPackage:
    """A package file: fields of its control file, and the file's path and hash."""

    name: str
    version: str
    architecture: str
    maintainer: str
    path: Path

    @property
    def upstream_version(self) -> str:
        """Version of the software, without Debian's epoch, revision and repacking mark."""
        return upstream(self.version)


def upstream(version: str) -> str:
    """Return the version of the software from that of its package."""
    return re.sub(r"\A\d+:|(-[^-]*)?\Z", "", version).partition("+")[0]


def run(command: Sequence[str], **environment: str) -> str:
    """Run a program; return stdout.

    Raises BuildFailed, with the last lines of the program's messages.
    """
    try:
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildFailed(
            f"{command[0]} cannot be run: {error}; a bundle is built on Debian, see docs/bundle.md"
        ) from error
    if done.returncode != 0:
        lines = "\n".join((done.stderr or done.stdout).strip().splitlines()[-30:])
        raise BuildFailed(f"'{' '.join(command[:3])} …' failed:\n{lines}")
    return done.stdout


def architecture() -> str:
    """Return Debian's name of this machine's architecture."""
    return run(["dpkg", "--print-architecture"]).strip()


def download(names: Sequence[str], folder: Path) -> list[DebianPackage]:
    """Download the newest packages of these names and their dependencies into a folder, unless they are there.

    Raises BuildFailed.
    """
    try:
        return _download(names, folder, [])
    except BuildFailed:
        # The machine's lists are missing or old, and only root may renew them.
        lists = ["--option", f"Dir::State::lists={folder / 'lists'}"]
        (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
        run(["apt-get", "--quiet", *lists, "update"], LC_ALL="C")
        return _download(names, folder, lists)


def _download(names: Sequence[str], folder: Path, lists: Sequence[str]) -> list[DebianPackage]:
    archives, empty, status = folder / "archives", folder / "empty", folder / "status"
    for cache in (archives, empty):
        (cache / "partial").mkdir(parents=True, exist_ok=True)
    own = architecture()
    status.write_text("".join(_installed(name, own) for name in NOT_NEEDED))
    # The machine's sources and lists, but packages and archives of our own: as on a machine with nothing installed.
    options = [
        *("--quiet", "--yes", "--download-only", "--no-install-recommends"),
        *("--option", f"Dir::State::status={status}"),
        *("--option", f"Dir::State::extended_states={folder / 'extended_states'}"),
        *("--option", "Dir::Cache::pkgcache=", "--option", "Dir::Cache::srcpkgcache="),
        *("--option", "Debug::NoLocking=1", *lists),
    ]

    def install(cache: Path, *more: str) -> str:
        command = ["apt-get", *options, "--option", f"Dir::Cache::archives={cache}", *more, "install", *names]
        return run(command, LC_ALL="C")

    # Packages that are there already are not listed.
    uris = install(empty, "--print-uris")
    install(archives)
    return sorted(
        (_read(archives / line.split()[1]) for line in uris.splitlines() if line.startswith("'")),
        key=lambda package: package.name,
    )


def _installed(name: str, own: str) -> str:
    """Return the entry of apt's status file that says that a package is installed, in any version."""
    return (
        f"Package: {name}\nStatus: install ok installed\nMaintainer: none\nArchitecture: {own}\n"
        "Multi-Arch: foreign\nVersion: 999:0\nDescription: none\n\n"
    )


def _read(path: Path) -> DebianPackage:
    """Return the package of a file."""
    fields = dict(
        line.split(": ", 1)
        for line in run(
            ["dpkg-deb", "--field", str(path), "Package", "Version", "Architecture", "Maintainer"]
        ).splitlines()
        if ": " in line
    )
    return DebianPackage(fields["Package"], fields["Version"], fields["Architecture"], fields["Maintainer"], path)


def unpack(package: DebianPackage, tree: Path) -> None:
    """Unpack the wanted files of a package into the tree, without rights beyond read, write and execute."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package.path)], stdout=subprocess.PIPE) as process:
        if process.stdout is not None:  # always, by the argument
            _unpack(package.name, process.stdout, tree)
    if process.returncode != 0:
        raise BuildFailed(f"{package.path} cannot be unpacked: remove it, and repeat the command")


def _unpack(name: str, stream: IO[bytes], tree: Path) -> None:
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            path = in_usr(entry.name)
            if not path or entry.isdir() or not is_wanted(name, path):
                continue
            entry.name, entry.uid, entry.gid = path, os.geteuid(), os.getegid()
            entry.uname = entry.gname = ""
            entry.mode = 0o755 if entry.mode & 0o100 else 0o644
            if entry.islnk():
                entry.linkname = in_usr(entry.linkname)
            # "tar" refuses paths that lead out of the tree, and absolute links, which packages have.
            tar.extract(entry, tree, filter="fully_trusted" if entry.issym() else "tar")


def in_usr(path: str) -> str:
    """Return a path of a package as a path in the tree, where /bin, /lib and others are links into /usr."""
    path = path.removeprefix("./").strip("/")
    return f"usr/{path}" if path.partition("/")[0] in _MERGED else path


def is_wanted(package: str, path: str) -> bool:
    """Return whether the tree gets a file of a package."""
    if fnmatchcase(path, _LICENCE):
        return True
    if path.startswith("usr/share/doc/"):
        # A package's folder can be a link to that of its source, which has the licence.
        return "/" not in path.removeprefix("usr/share/doc/")
    if package in ONLY:
        return path in ONLY[package]
    return not any(fnmatchcase(path, pattern) for pattern in LEFT_OUT)
