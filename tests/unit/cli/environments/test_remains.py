"""Remains of an environment on nodes: what is said while they go."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, ServiceStatus
from devopsellence.cli.environments.remains import Remains, changes, node_of, remains_of
from devopsellence.store.keys import EnvironmentRef, Keys

REF = EnvironmentRef("acme", "shop", "review")
KEYS = Keys()


def status(*services: ServiceStatus, removed: bool = False) -> AssignmentStatus:
    return AssignmentStatus(services=services, phase=AssignmentStatus.REMOVED if removed else AssignmentStatus.SETTLED)


def service(name: str, *, stopping: str = "") -> ServiceStatus:
    return ServiceStatus(name=name, stopping=stopping)


@pytest.mark.parametrize(
    ("assigned", "statuses", "parts", "expected"),
    [
        ([], {}, [], Remains()),
        (["n1"], {}, [], Remains(frozenset({"n1"}))),
        ([], {"n1": None}, [], Remains(frozenset({"n1"}))),
        ([], {}, ["n1"], Remains(frozenset({"n1"}))),
        ([], {"n1": status(service("web"), removed=True)}, [], Remains(frozenset({"n1"}))),
        (
            ["n1", "n2"],
            {"n1": status(service("web"), service("jobs", stopping="c1"))},
            ["n3"],
            Remains(frozenset({"n1", "n2", "n3"}), {"n1": ("jobs", "web")}, {"n1": ("jobs",)}),
        ),
    ],
)
def test_node_is_left_while_it_has_any_key(
    assigned: list[str], statuses: dict[str, AssignmentStatus | None], parts: list[str], expected: Remains
) -> None:
    assert remains_of(assigned, statuses, parts) == expected


RUNS = Remains(frozenset({"n1"}), {"n1": ("jobs", "web")})
STOPS = Remains(frozenset({"n1"}), {"n1": ("jobs", "web")}, {"n1": ("jobs",)})
ONE_LEFT = Remains(frozenset({"n1"}), {"n1": ("web",)})
REPORTED = Remains(frozenset({"n1"}))
STOPPING = "n1 stops jobs, which takes up to the grace period (stop_grace_period)"


@pytest.mark.parametrize(
    ("before", "after", "sentences"),
    [
        (Remains(), RUNS, []),
        (Remains(), STOPS, [STOPPING]),
        (RUNS, STOPS, [STOPPING]),
        (STOPS, STOPS, []),
        (STOPS, ONE_LEFT, ["n1 has removed jobs; 1 service left"]),
        (ONE_LEFT, REPORTED, ["n1 has removed web"]),
        (REPORTED, Remains(), ["n1 runs nothing of the environment any more; its volumes stay"]),
        (
            RUNS,
            Remains(),
            ["n1 has removed jobs, web", "n1 runs nothing of the environment any more; its volumes stay"],
        ),
    ],
)
def test_each_change_is_said_once(before: Remains, after: Remains, sentences: list[str]) -> None:
    assert changes(before, after) == sentences


def test_names_from_a_node_move_no_cursor() -> None:
    (sentence,) = changes(Remains(frozenset({"n1"}), {"n1": ("a\x1b[2J",)}), REPORTED)
    assert "\x1b" not in sentence


@pytest.mark.parametrize(
    ("key", "node"),
    [
        (KEYS.assignment("n1", REF), "n1"),
        (KEYS.status("n1", REF), "n1"),
        (KEYS.ingress("n1", REF, "shop.example.com"), "n1"),
        (KEYS.ingress("n1", REF, "+peers"), "n1"),
        # Another environment whose name begins in the same way is another one.
        (KEYS.assignment("n1", EnvironmentRef("acme", "shop", "review2")), ""),
        (KEYS.ingress("n1", EnvironmentRef("acme", "shop", "review2"), "+peers"), ""),
        (KEYS.environment(REF), ""),
        (f"{KEYS.all_assignments_prefix}n1/acme", ""),
    ],
)
def test_node_of_a_key(key: str, node: str) -> None:
    assert node_of(KEYS, key, REF) == node
