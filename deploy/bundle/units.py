"""Systemd units for programs in the tree, made from the units for a virtual environment.

One source, ``deploy/systemd`` and ``deploy/etcd``: all restrictions, credentials and times stay as they are there. The
unit gets the version's tree as its root directory and the host's folders that the program uses.
"""

from __future__ import annotations

import re
from typing import Final

from deploy.bundle.paths import FILES, HOST_ETC, PROGRAMS, root

_ENVIRONMENT: Final = "/opt/devopsellence/bin/"
_SCRIPT: Final = "/usr/local/lib/devopsellence/"
_SERVICE: Final = "[Service]"
#: Folders of the host that a unit reads, beside /run and /etc; a leading - allows for a missing one. Not the mounts
#: below Docker's folder, of which there are several for each container.
_READ: Final = {
    "devopsellence-agent.service": ("-/var/lib/docker:/var/lib/docker:norbind",),
    # Files that controller.env names, such as the authority of an ACME server.
    "devopsellence-controller.service": ("/etc/devopsellence-controller",),
    "devopsellence-etcd.service": ("/etc/etcd/devopsellence",),
    "devopsellence-etcd-renew.service": ("/etc/devopsellence-controller",),
    "devopsellence-etcd-snapshot.service": ("/etc/etcd/devopsellence",),
}


class UnknownUnit(Exception):
    """A unit whose folders on the host are not listed here, or of an unexpected form."""


def for_bundle(name: str, text: str, version: str) -> str:
    """Return the unit ``name`` for the tree of a version; a timer is returned unchanged.

    Raises UnknownUnit.
    """
    if not name.endswith(".service"):
        return text
    if name not in _READ:
        raise UnknownUnit(f"deploy/bundle/units.py does not list the folders of the host that {name} reads")
    lines = text[text.index("[Unit]") :].splitlines()
    if lines.count(_SERVICE) != 1:
        raise UnknownUnit(f"{name} has not one section [Service]")
    result = [f"# For the tree of version {version}; made by 'make bundle' from the unit of the same name in deploy/."]
    for line in lines:
        if line.startswith("ReadWritePaths="):
            continue
        result.append(_in_tree(line, version))
        if line == _SERVICE:
            result += _sandbox(_READ[name], _written(lines), version)
    return "\n".join(result) + "\n"


def _in_tree(line: str, version: str) -> str:
    """Return a line with the tree's paths for those of a virtual environment."""
    if line.startswith("Condition"):  # judged outside of the tree
        return line.replace(_ENVIRONMENT, f"{root(version)}{PROGRAMS}/")
    line = line.replace(_ENVIRONMENT, f"{PROGRAMS}/").replace(_SCRIPT, f"{FILES}/etcd/")
    return re.sub(r"^ExecStart=(?=\w)", f"ExecStart={PROGRAMS}/", line)


def _written(lines: list[str]) -> list[str]:
    """Return the host's folders that the program writes. systemd binds those of a dynamic user by itself."""
    written = [path for line in lines for path in _values(line, "ReadWritePaths")]
    if "DynamicUser=true" not in lines:
        # Parents alone: the rest is below.
        states = [path for line in lines for path in _values(line, "StateDirectory") if "/" not in path]
        written += [f"/var/lib/{path}" for path in states]
    return written


def _values(line: str, setting: str) -> list[str]:
    name, _, value = line.partition("=")
    return value.split() if name == setting else []


def _sandbox(read: tuple[str, ...], written: list[str], version: str) -> list[str]:
    """Return the settings that make the tree the root directory."""
    return [
        "# systemd follows no symbolic link here, so the unit names the version.",
        f"RootDirectory={root(version)}",
        "MountAPIVFS=true",
        "# Folders, never Docker's socket or resolv.conf: a bound file goes stale when it is replaced.",
        f"BindReadOnlyPaths={' '.join(['/run', f'/etc:{HOST_ETC}', *read])}",
        *([f"BindPaths={' '.join(written)}"] if written else []),
    ]
