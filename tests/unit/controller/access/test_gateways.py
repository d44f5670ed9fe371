"""Plan of the record of gateways."""

from __future__ import annotations

from devopsellence.controller.access.gateways import ABSENCE_SECONDS, announced, plan_gateways
from devopsellence.gateways import MOST_GATEWAYS

A, B, C = "10.0.0.1:2381", "10.0.0.2:2381", "10.0.0.3:2381"


def test_record_lists_what_candidates_announce() -> None:
    live = announced([B, A, "", "gateway.example:2381", "0.0.0.0:2381", A])
    assert live == {A, B}
    assert plan_gateways(live, [], {}, 0.0).addresses == (A, B)


def test_record_at_rest_is_not_written() -> None:
    plan = plan_gateways(frozenset({A, B}), [A, B], {}, 0.0)
    assert (plan.addresses, plan.absent, plan.recheck) == (None, {}, None)


def test_restarting_controller_writes_nothing() -> None:
    gone = plan_gateways(frozenset({A}), [A, B], {}, 100.0)
    assert (gone.addresses, gone.recheck) == (None, 100.0 + ABSENCE_SECONDS)
    still = plan_gateways(frozenset({A}), [A, B], gone.absent, 100.0 + ABSENCE_SECONDS - 1)
    assert (still.addresses, still.recheck) == (None, gone.recheck)
    back = plan_gateways(frozenset({A, B}), [A, B], still.absent, 100.0 + ABSENCE_SECONDS)
    assert (back.addresses, back.absent, back.recheck) == (None, {}, None)


def test_address_goes_when_its_controller_stays_away() -> None:
    gone = plan_gateways(frozenset({A}), [A, B], {}, 100.0)
    assert gone.recheck is not None
    assert plan_gateways(frozenset({A}), [A, B], gone.absent, gone.recheck).addresses == (A,)


def test_absence_begins_anew_after_a_return_and_in_a_new_term() -> None:
    gone = plan_gateways(frozenset({A}), [A, B], {}, 0.0)
    back = plan_gateways(frozenset({A, B}), [A, B], gone.absent, 500.0)
    assert plan_gateways(frozenset({A}), [A, B], back.absent, 900.0).addresses is None
    assert plan_gateways(frozenset({A}), [A, B], {}, 900.0).addresses is None


def test_new_address_is_listed_at_once_beside_a_vanished_one() -> None:
    plan = plan_gateways(frozenset({A, C}), [A, B], {B: 0.0}, 10.0)
    assert (plan.addresses, plan.recheck) == ((A, B, C), ABSENCE_SECONDS)


def test_last_known_addresses_stay_while_there_is_no_gateway() -> None:
    gone = plan_gateways(frozenset(), [A], {}, 0.0)
    assert (gone.addresses, gone.recheck) == (None, None)
    assert plan_gateways(frozenset(), [A], gone.absent, 10 * ABSENCE_SECONDS).addresses is None
    assert plan_gateways(frozenset({B}), [A], gone.absent, 10 * ABSENCE_SECONDS).addresses == (B,)


def test_record_has_no_more_than_agents_take() -> None:
    live = frozenset(f"10.0.1.{number}:2381" for number in range(MOST_GATEWAYS + 5))
    plan = plan_gateways(live, [A], {}, 0.0)
    assert plan.addresses is not None
    assert len(plan.addresses) == MOST_GATEWAYS
    assert A not in plan.addresses
    assert plan_gateways(live, plan.addresses, {}, 0.0).addresses is None
