"""What the tests of the configuration share: a sound file to spoil, and what is wrong with a text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from devopsellence.config import Config, ConfigError, parse

PATH = Path("/app/devopsellence.yml")
HEAD = "schema_version: 1\norganization: acme\nproject: shop\n"
WEB = "services:\n  web:\n    ports: [{name: http, port: 3000}]\n    healthcheck: {}\n"

Problems = Callable[[str], list[str]]
Parse = Callable[[str], Config]


def _parse(text: str) -> Config:
    return parse(textwrap.dedent(text), PATH)


@pytest.fixture
def read() -> Parse:
    """The configuration in a text."""
    return _parse


@pytest.fixture
def problems() -> Problems:
    """The messages of everything that is wrong with a text, in order; nothing for a sound one."""

    def check(text: str) -> list[str]:
        try:
            _parse(text)
        except ConfigError as error:
            return [finding.message for finding in error.findings]
        return []

    return check


@pytest.fixture
def places() -> Problems:
    """As ``problems``, as ``line:column: message``."""

    def check(text: str) -> list[str]:
        try:
            _parse(text)
        except ConfigError as error:
            return [str(finding).removeprefix(f"{PATH}:") for finding in error.findings]
        return []

    return check
