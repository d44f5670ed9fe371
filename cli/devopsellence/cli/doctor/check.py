"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from devopsellence.cli.output import CliError, Finding, NextAction


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found; ``severity`` is "ok", "warning" or "error"."""

    name: str
    severity: str
    message: str
    code: str = ""
    next_actions: tuple[NextAction, ...] = ()

    def document(self) -> dict[str, Any]:
        """The shape that it has in JSON."""
        return {
            "name": self.name,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "next_actions": [action.document() for action in self.next_actions],
        }

    def finding(self) -> Finding:
        """The check as part of an error."""
        return Finding(self.code or self.name, f"{self.name}: {self.message}", self.severity, "", self.next_actions)


def failed(name: str, error: CliError, severity: str = "error") -> Check:
    """The check that ended with ``error``."""
    return Check(name, severity, error.message, error.code, error.next_actions)
