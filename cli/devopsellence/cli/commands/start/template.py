"""Template of the devopsellence.yml written by ``init``. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*\Z", re.ASCII)
# Words that YAML 1.1 or 1.2 parsers do not read as strings.
_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_EXPOSE: Final = re.compile(r"^\s*EXPOSE\s+(\d{1,5})(?:/tcp)?(?:\s|$)", re.IGNORECASE | re.MULTILINE)
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
    """Return the first port of an EXPOSE line in a Dockerfile; None for none, or for a variable."""
    match = _EXPOSE.search(dockerfile)
    port = int(match.group(1)) if match else 0
    return port if 0 < port < 65536 else None


def as_name(text: str) -> str:
    """Return the nearest valid name to ``text`` (such as the name of a folder); "" without any valid character."""
    return _NOT_A_NAME.sub("-", text).strip("-._")[:63]
