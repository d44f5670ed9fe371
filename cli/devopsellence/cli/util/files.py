"""Folders of devopsellence for this user. Imports only the standard library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the state folder of devopsellence: ``DEVOPSELLENCE_HOME``, else a folder by the XDG specification."""
    if chosen := environ.get("DEVOPSELLENCE_HOME"):
        return Path(chosen).absolute()
    # The XDG base directory specification: a relative path in the variable is invalid and ignored.
    state = Path(environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "devopsellence"


def config_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the configuration folder of devopsellence: ``DEVOPSELLENCE_HOME``, else a folder by the specification."""
    if chosen := environ.get("DEVOPSELLENCE_HOME"):
        return Path(chosen).absolute()
    config = Path(environ.get("XDG_CONFIG_HOME", ""))
    return (config if config.is_absolute() else Path.home() / ".config") / "devopsellence"
