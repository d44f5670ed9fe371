"""Shared by the tests of the configuration: a valid file, and the problems of a text."""

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
    """Parse a text as configuration."""
    return _parse


@pytest.fixture
def problems() -> Problems:
    """Return the messages of all problems of a text, in order; empty for a valid text."""

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
