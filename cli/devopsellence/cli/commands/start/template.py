"""The devopsellence.yml that ``init`` writes. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*\Z", re.ASCII)
# What YAML 1.1 or 1.2 readers take for something else than a string.
_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_EXPOSE: Final = re.compile(r"^\s*EXPOSE\s+(\d{1,5})(?:/tcp)?(?:\s|$)", re.IGNORECASE | re.MULTILINE)
_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)
DEFAULT_PORT: Final = 3000
DEFAULT_HEALTH_PATH: Final = "/up"

_TEMPLATE: Final = """\
# What devopsellence deploys. Check it with: devopsellence config validate
schema_version: 1
organization: {organization}
project: {project}
default_environment: {environment}

# The app image: built here, used by every service that names no image of its own.
build:
  context: .
  dockerfile: {dockerfile}

services:
  web:
    ports:
      - name: http
        port: {port}
    # A new version takes over once this answers with 200 to 399.
    healthcheck:
      path: {health_path}
      port: {port}
    # env:
    #   REDIS_URL: redis://redis:6379/0

  # A service of its own beside the app, which reaches it by its name. It needs a node labelled "worker":
  #   devopsellence node label set <node> --labels web,worker
  # redis:
  #   image: redis:7-alpine
  #   args: [redis-server, --appendonly, "yes"]
  #   volumes:
  #     - source: redis_data
  #       target: /data

# What differs in another environment: devopsellence deploy --env staging
# environments:
#   staging:
#     services:
#       web:
#         env:
#           LOG_LEVEL: debug
"""


@dataclass(frozen=True)
class InitAnswers:
    """What the file is made from."""

    organization: str
    project: str
    environment: str
    dockerfile: str
    port: int
    health_path: str


def render(answers: InitAnswers) -> str:
    """The text of the file."""
    return _TEMPLATE.format(
        organization=scalar(answers.organization),
        project=scalar(answers.project),
        environment=scalar(answers.environment),
        dockerfile=scalar(answers.dockerfile),
        port=answers.port,
        health_path=scalar(answers.health_path),
    )


def scalar(text: str) -> str:
    """``text`` as a YAML string, quoted where it would be read as something else."""
    plain = _PLAIN.match(text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def exposed_port(dockerfile: str) -> int | None:
    """The first port that a Dockerfile says it exposes; None when it says none, or only by a variable."""
    found = _EXPOSE.search(dockerfile)
    port = int(found.group(1)) if found else 0
    return port if 0 < port < 65536 else None


def as_name(text: str) -> str:
    """The nearest valid name to ``text`` (such as a folder's name); "" when nothing of it can be used."""
    return _NOT_A_NAME.sub("-", text).strip("-._")[:63]
