"""The project on a machine's file system, installed as docs/install.md says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.machines.tree import kept, machine_tree
from tests.support.need import lack
from tests.support.project import PROJECT
from tests.support.run import run

#: With the machines' tree, a folder for the layer above, and a mount point. The mounts end with the process.
_IN_LAYER: Final = """\
set -eu
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
mount --bind "$2/wheels" "$2/root/mnt"
exec chroot "$2/root" sh -c "$3"
"""
_INSTALL: Final = """\
set -eu
python3 -m venv /opt/devopsellence
/opt/devopsellence/bin/pip install --quiet --no-index --find-links /mnt 'devopsellence[envoy]'
ln -s /opt/devopsellence/bin/devopsellence* /usr/local/bin/
"""
#: Nothing of this machine's settings for pip, whose paths are not on the other one.
_ENVIRON: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def installed_tree(folder: Path) -> Sequence[Path]:
    """Return the layers of a file system with the project in /opt/devopsellence; the first is made below ``folder``."""
    (tree,) = machine_tree()
    if not (tree / f"usr/bin/python3.{sys.version_info.minor}").exists():
        lack(f"needs a .venv of the Python of Debian, not {sys.version_info.major}.{sys.version_info.minor}")
    installed = folder / "installed"
    wheels = installed / "wheels"
    shutil.copytree(_dependencies(), wheels)
    _wheel("--no-deps", "--wheel-dir", str(wheels), str(PROJECT))
    layer = ["sh", "-c", _IN_LAYER, "layer", str(tree), str(installed), _INSTALL]
    run(["unshare", "--mount", *layer], environ=_ENVIRON, timeout=300)
    return installed / "upper", tree


@cache
def _dependencies() -> Path:
    """Return a folder with wheels of all that the project needs, in the versions of constraints.txt; kept."""
    constraints = (PROJECT / "constraints.txt").read_text()

    def build(folder: Path) -> None:
        folder.mkdir()
        # Without the hashes, which the project itself does not have.
        pins = folder / "pins.txt"
        pins.write_text("".join(f"{pin}\n" for pin in re.findall(r"^[\w.-]+==[^\s;]+", constraints, re.MULTILINE)))
        _wheel("--constraint", str(pins), "--wheel-dir", str(folder), f"{PROJECT}[envoy]")
        pins.unlink()
        for own in folder.glob("devopsellence-*"):
            own.unlink()

    return kept("wheels", [constraints.encode(), (PROJECT / "pyproject.toml").read_bytes()], build)


def _wheel(*arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-build-isolation"]
    done = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
