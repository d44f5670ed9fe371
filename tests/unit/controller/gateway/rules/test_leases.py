"""Owners in the ids of leases."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devopsellence.controller.gateway.rules.leases import RANDOM_BITS, lease_id, owns


@given(st.text(max_size=70), st.integers(0, 2**RANDOM_BITS - 1))
def test_lease_belongs_to_its_owner(owner: str, random: int) -> None:
    lease = lease_id(owner, random)
    assert 0 < lease < 2**63
    assert owns(owner, lease)
    assert not owns(owner + "x", lease)


def test_ids_that_no_gateway_chose_belong_to_nobody() -> None:
    assert not any(owns("node:u1", lease) for lease in (0, -1, 42, 7587862094434566151, 2**63 - 1))
