"""Logging of the long-running programs: JSON lines on stderr, a constant message with keys and values.

Only the controller, the agent and the supervisor of the local cluster log; the CLI prints instead.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

import structlog

_STANDARD_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _Forward(logging.Handler):
    """Handler that forwards records of standard logging (libraries, and the store) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        values = {key: value for key, value in record.__dict__.items() if key not in _STANDARD_FIELDS}
        line = structlog.get_logger().bind(logger=record.name, **values)
        line.log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def configure(program: str, *, debug: bool = False) -> None:
    """Send all log lines to stderr as JSON, with ``program``, ``level`` and an ISO 8601 ``timestamp`` in UTC."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(program=program)
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[_Forward()], force=True)
