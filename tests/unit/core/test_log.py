"""Lines of the programs and of the libraries below them come out alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from devopsellence.log import configure


@pytest.fixture(autouse=True)
def _afterwards_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers, root.level = handlers, level


def test_line_is_one_json_object_with_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    configure("agent")
    structlog.get_logger().info("action", kind="start")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["kind"], line["program"], line["level"]) == ("action", "start", "agent", "info")
    assert line["timestamp"].endswith("Z")


def test_lines_of_the_standard_logging_come_out_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure("agent")
    logging.getLogger("some.library").warning("took %d tries", 3, extra={"prefix": "/x/"})
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["logger"], line["prefix"]) == ("took 3 tries", "some.library", "/x/")


def test_debug_lines_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    configure("agent")
    structlog.get_logger().debug("too much")
    logging.getLogger("x").debug("too much")
    assert capsys.readouterr().err == ""
