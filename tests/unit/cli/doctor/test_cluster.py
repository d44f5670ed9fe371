"""Networks left on a node."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.cli.doctor.cluster import FEW_NETWORKS, few_networks


@pytest.mark.parametrize(
    ("beat", "message"),
    [
        (None, None),
        (Heartbeat(), None),
        (Heartbeat(networks_left=FEW_NETWORKS + 1), None),
        (Heartbeat(networks_left=3), "Docker has addresses for 3 more networks"),
        (Heartbeat(networks_left=1), "Docker has addresses for 1 more network"),
        (Heartbeat(networks_left=0), "Docker has addresses for no more networks"),
    ],
)
def test_few_networks_are_a_warning_with_the_fix(beat: Heartbeat | None, message: str | None) -> None:
    result = few_networks("n1", beat)
    if message is None:
        assert result is None
        return
    assert result is not None
    assert (result.severity, result.code, result.message) == ("warning", "networks_few", message)
    (action,) = result.next_actions
    assert action.command == "docker network prune"
    assert "default-address-pools" in action.label
