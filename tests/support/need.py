"""Requirements of tests on the machine. A missing requirement fails the test in CI and skips the test elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from typing import NoReturn

import pytest


def need_etcd() -> None:
    """Require ``etcd`` and ``etcdctl`` on PATH."""
    _need_programs("etcd", "etcdctl")


def need_pebble() -> None:
    """Require ``pebble`` and ``pebble-challtestsrv`` on PATH."""
    _need_programs("pebble", "pebble-challtestsrv")


def need_docker() -> None:
    """Require a Docker Engine that answers."""
    if problem := _docker_problem():
        lack(problem)


def own_mounts() -> list[str]:
    """Return the command before another one that is to have a mount namespace of its own."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


def need_own_mounts() -> None:
    """Require mount namespaces."""
    answer = subprocess.run([*own_mounts(), "true"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        lack(f"needs a mount namespace: {answer.stderr.strip()}")


def lack(reason: str) -> NoReturn:
    """Fail (CI) or skip (elsewhere) the running test; ``reason`` names the missing requirement."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _need_programs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        lack(f"needs {' and '.join(missing)} on PATH")


@cache
def _docker_problem() -> str:
    if shutil.which("docker") is None:
        return "needs docker on PATH"
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return "needs a Docker Engine: it did not answer within 10 s"
    return "" if answer.returncode == 0 else f"needs a Docker Engine: {answer.stderr.strip()}"
