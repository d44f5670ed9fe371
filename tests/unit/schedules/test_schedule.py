"""Schedules: determined by the seed, and within the assumptions of the verdict."""

from __future__ import annotations

import pytest

from tests.schedules.schedule import OPERATOR_STEPS, OwnKey, ReleaseQuality, StepKind, schedule

SEEDS = range(1, 101)


def test_seed_determines_schedule() -> None:
    assert [str(schedule(seed)) for seed in SEEDS] == [str(schedule(seed)) for seed in SEEDS]
    assert len({str(schedule(seed)) for seed in SEEDS}) == len(SEEDS)


def test_hundred_schedules_cover_all_steps_and_qualities() -> None:
    steps = [step for seed in SEEDS for step in schedule(seed).steps]
    assert {step.what for step in steps} == set(StepKind)
    assert {shape.quality for step in steps for shape in step.shapes} == set(ReleaseQuality)
    assert {shape.ingress for step in steps for shape in step.shapes} == {True, False}
    assert {step.key for step in steps} == {None, *OwnKey}


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_of_a_part_do_not_overlap(seed: int) -> None:
    free_at: dict[str, float] = {}
    for step in schedule(seed).steps:
        if step.target and step.what not in OPERATOR_STEPS:
            assert step.at > free_at.get(step.part, 0.0)
            free_at[step.part] = step.at + step.seconds


@pytest.mark.parametrize("seed", SEEDS)
def test_every_service_always_has_a_node(seed: int) -> None:
    made = schedule(seed)
    assert made.labels["n1"] == ("web", "worker")
    assert "n1" in made.attached
    meddling = {StepKind.RELABEL, StepKind.CORDON, StepKind.DETACH}
    assert not [step for step in made.steps if step.target == "n1" and step.what in meddling]
    assert made.steps[0].shapes[0].quality is ReleaseQuality.GOOD
    assert made.own_etcd or not [step for step in made.steps if step.target == "etcd"]
