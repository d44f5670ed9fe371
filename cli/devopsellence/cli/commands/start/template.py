"""Template of the devopsellence.yml written by ``init``. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*\Z", re.ASCII)
# Words that YAML 1.1 or 1.2 parsers do not read as strings.
_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_INSTRUCTION: Final = re.compile(r"\s*(FROM|EXPOSE|ARG|ENV)\s+(.*)", re.IGNORECASE)
_ASSIGNMENT: Final = re.compile(r"(\w+)=[\"']?(\w*)[\"']?", re.ASCII)
_PORT: Final = re.compile(r"(?:(\d{1,5})|\$\{?(\w+)\}?)(?:/tcp)?\Z", re.IGNORECASE | re.ASCII)
_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)
DEFAULT_PORT: Final = 3000
DEFAULT_HEALTH_PATH: Final = "/up"

_TEMPLATE: Final = """\
# Configuration of devopsellence. Check it with: devopsellence config validate
schema_version: 1
organization: {organization}
project: {project}
default_environment: {environment}

# The app image: built here, used by every service without an image of its own.
build:
  context: .
  dockerfile: {dockerfile}

services:
  web:
    ports:
      - name: http
        port: {port}
    # A new version gets requests once this path returns a status from 200 to 399.
    healthcheck:
      path: {health_path}
      port: {port}
    # env:
    #   REDIS_URL: redis://redis:6379/0

  # A supporting service, reachable from the app by its name. It needs a node with the label "worker":
  #   devopsellence node label set <node> --labels web,worker
  # redis:
  #   image: redis:7-alpine
  #   args: [redis-server, --appendonly, "yes"]
  #   volumes:
  #     - source: redis_data
  #       target: /data

# Settings of another environment, deployed with: devopsellence deploy --env staging
# environments:
#   staging:
#     services:
#       web:
#         env:
#           LOG_LEVEL: debug
"""


@dataclass(frozen=True)
class InitAnswers:
    """Values for the template."""

    organization: str
    project: str
    environment: str
    dockerfile: str
    port: int
    health_path: str


def render(answers: InitAnswers) -> str:
    """Return the content of devopsellence.yml."""
    return _TEMPLATE.format(
        organization=scalar(answers.organization),
        project=scalar(answers.project),
        environment=scalar(answers.environment),
        dockerfile=scalar(answers.dockerfile),
        port=answers.port,
        health_path=scalar(answers.health_path),
    )


def scalar(text: str) -> str:
    """Return ``text`` as a YAML string, quoted unless a parser reads the plain text as a string."""
    plain = _PLAIN.match(text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def exposed_port(dockerfile: str) -> int | None:
    """Return the first TCP port that the last stage of a Dockerfile exposes, else an earlier stage; None for none.

    All EXPOSE lines count, and a variable with the value that ARG or ENV of the file gives; UDP and ranges do not.
    """
    variables: dict[str, str] = {}
    stages: list[list[int]] = [[]]
    for line in dockerfile.replace("\\\n", " ").splitlines():
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        instruction, rest = match[1].upper(), match[2]
        if instruction == "FROM":
            stages.append([])
        elif instruction == "EXPOSE":
            stages[-1] += [port for word in rest.split() if (port := _port(word, variables))]
        else:
            variables |= _ASSIGNMENT.findall(rest)
    return next((ports[0] for ports in reversed(stages) if ports), None)


def _port(word: str, variables: Mapping[str, str]) -> int:
    """Return the port of a word of EXPOSE; 0 for none."""
    match = _PORT.match(word)
    text = (match[1] or variables.get(match[2], "")) if match else ""
    return int(text) if text.isdecimal() and len(text) < 6 and int(text) < 65536 else 0


def as_name(text: str) -> str:
    """Return the nearest valid name to ``text`` (such as the name of a folder); "" without any valid character."""
    return _NOT_A_NAME.sub("-", text).strip("-._")[:63]
