"""Registration of a node: the steps that come next."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.cli.nodes.register import Registration
from devopsellence.cli.secrets.access import Exposure
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
ATTACH = "devopsellence node attach n1"
REENCRYPT = f"devopsellence secret reencrypt --env {REF}"
UNCORDON = "devopsellence node uncordon n1"


@pytest.mark.parametrize(
    ("cordoned", "exposed", "attached", "commands"),
    [
        (False, False, False, [ATTACH]),
        # A replaced machine, or one that is registered again, is attached already.
        (False, False, True, ["devopsellence node list"]),
        (False, True, True, [REENCRYPT]),
        (True, True, True, [REENCRYPT, UNCORDON]),
        (True, False, True, [UNCORDON]),
        (True, False, False, [UNCORDON, ATTACH]),
    ],
)
def test_next_steps_are_those_that_are_left(cordoned: bool, exposed: bool, attached: bool, commands: list[str]) -> None:
    registration = Registration(
        Node(name="n1", cordoned=cordoned),
        exposed={REF: Exposure()} if exposed else {},
        attached=[REF] if attached else [],
    )
    assert [step.command for step in registration.next_steps] == commands
