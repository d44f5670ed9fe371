"""Errors of the local cluster."""

from __future__ import annotations

import pytest

from devopsellence.cli.dev.docker_api import DockerHttpError
from devopsellence.cli.dev.problems import docker_unusable


@pytest.mark.parametrize(
    ("cause", "command"),
    [
        (FileNotFoundError(), "sudo apt-get install docker.io"),
        (PermissionError(), "sudo usermod -aG docker $USER"),
        (ConnectionRefusedError(), "sudo systemctl start docker"),
        (TimeoutError(), "docker version"),
        (None, "docker version"),
    ],
)
def test_docker_fix_depends_on_the_problem(cause: Exception | None, command: str) -> None:
    error = DockerHttpError("why")
    error.__cause__ = cause
    explained = docker_unusable(error)
    assert (explained.code, explained.message, explained.exit_code) == ("docker_unavailable", "why", 1)
    assert explained.next_actions[0].command == command
