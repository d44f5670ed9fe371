"""Saved settings of the local cluster, also of older and newer versions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.state import DevState, load, save
from devopsellence.cli.output import CliError

STATE = DevState("box", "u1", "unix:///run/docker.sock", client_port=20100, peer_port=20101, agent_port=20102)


@pytest.fixture
def layout(tmp_path: Path) -> DevLayout:
    return DevLayout(tmp_path)


def test_saved_state_is_loaded(layout: DevLayout) -> None:
    assert load(layout) is None
    save(layout, STATE)
    assert load(layout) == STATE


def test_unknown_fields_are_dropped_and_missing_ones_get_defaults(
    layout: DevLayout,
) -> None:
    remembered = {**asdict(STATE), "of_tomorrow": 1}
    del remembered["agent_port"], remembered["http_port"]
    layout.state.write_text(json.dumps(remembered))
    loaded = load(layout)
    assert loaded is not None
    assert (loaded.node_uid, loaded.agent_port, loaded.http_port) == ("u1", 0, 0)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"node_name": "box"}'])
def test_file_without_cluster_is_an_error(layout: DevLayout, content: str) -> None:
    layout.state.write_text(content)
    with pytest.raises(CliError) as failure:
        load(layout)
    assert failure.value.code == "dev_state_unreadable"
