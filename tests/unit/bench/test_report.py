"""Figures: ratios, limits, JSON."""

from __future__ import annotations

import json

import pytest

from bench.report import Figure, as_json


def test_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() -> None:
    figure = Figure("x", "s", [1.0, 4.0, 9.0], "peer", [1.0, 2.0, 3.0])
    assert figure.ratio == 2.0


def test_figure_without_peer_has_no_ratio() -> None:
    assert Figure("x", "s", [1.0]).ratio is None


@pytest.mark.parametrize(
    ("figure", "within"),
    [
        (Figure("no limit", "s", [1.0]), None),
        (Figure("the value counts", "s", [0.9], limit=1.0), True),
        (Figure("the value counts", "s", [1.1], limit=1.0), False),
        (Figure("the ratio counts", "s", [30.0], "peer", [29.0], limit=1.5), True),
        (Figure("the ratio counts", "s", [1.0], "peer", [0.5], limit=1.5), False),
    ],
)
def test_limit_is_on_the_ratio_where_there_is_one(figure: Figure, within: bool | None) -> None:
    assert figure.within is within


def test_document_holds_every_run() -> None:
    document = json.loads(as_json([Figure("x", "s", [1.0, 2.0, 3.0], limit=1.5)]))
    assert document["figures"][0]["values"] == [1.0, 2.0, 3.0]
    assert document["figures"][0]["within"] is False
