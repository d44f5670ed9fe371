"""The folders of a user."""

from __future__ import annotations

from pathlib import Path

from devopsellence.cli.util.files import config_home, state_home


def test_state_home_follows_variables() -> None:
    assert state_home({"DEVOPSELLENCE_HOME": "/data", "XDG_STATE_HOME": "/state"}) == Path("/data")
    assert state_home({"XDG_STATE_HOME": "/state"}) == Path("/state/devopsellence")
    assert state_home({"XDG_STATE_HOME": "relative"}) == state_home({}) == Path.home() / ".local/state/devopsellence"


def test_config_home_follows_variables() -> None:
    assert config_home({"DEVOPSELLENCE_HOME": "/data", "XDG_CONFIG_HOME": "/config"}) == Path("/data")
    assert config_home({"XDG_CONFIG_HOME": "/config"}) == Path("/config/devopsellence")
    assert config_home({"XDG_CONFIG_HOME": "relative"}) == config_home({}) == Path.home() / ".config/devopsellence"
