"""Nodes that a deploy leaves out."""

from __future__ import annotations

import pytest

from devopsellence.cli.images.left_out import may_be_lost, not_sent, served_elsewhere
from devopsellence.cli.output import CliError

DEAD = CliError("agent_unreachable", "cannot reach the agent of node n1 at 10.0.0.1:7443: refused")
FULL = CliError("no_room", "node n3: no space left")


@pytest.mark.parametrize(
    ("failed", "wanted", "expected"),
    [
        pytest.param(["n1"], {"n1": ["a"], "n2": ["a", "b"]}, {"n1"}, id="its image is elsewhere"),
        pytest.param(["n1"], {"n1": ["a", "b"], "n2": ["a"]}, set(), id="one of its images is nowhere else"),
        pytest.param(["n1", "n2"], {"n1": ["a"], "n2": ["a"]}, set(), id="no other node is left"),
        pytest.param(["n1"], {"n1": ["a", "b"], "n2": ["a"], "n3": ["b"]}, {"n1"}, id="from several nodes"),
    ],
)
def test_failed_node_is_served_by_the_others(
    failed: list[str], wanted: dict[str, list[str]], expected: set[str]
) -> None:
    assert served_elsewhere(failed, wanted) == expected


def test_only_a_dead_agent_or_engine_may_be_left_out() -> None:
    engine = CliError("docker_unavailable", "node n2: the Docker Engine does not answer")
    assert may_be_lost({"n1": DEAD, "n2": engine, "n3": FULL}) == ["n1", "n2"]


def test_refusal_names_cordon_where_the_image_is_elsewhere() -> None:
    error = not_sent({"n3": FULL, "n1": DEAD}, {"n3"})
    assert error.message == (
        "images could not be uploaded to n1, n3, so no release was written; uploaded layers are kept; "
        "to deploy without n3, run devopsellence node cordon n3"
    )
    commands = [[action.command for action in finding.next_actions] for finding in error.findings]
    assert commands == [[], ["devopsellence node cordon n3"]]
