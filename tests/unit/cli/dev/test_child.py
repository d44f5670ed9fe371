"""Backoff of a restarted process."""

from __future__ import annotations

from devopsellence.cli.dev.child import LONGEST_PAUSE, backoff_seconds


def test_backoff_doubles_up_to_a_limit() -> None:
    assert [backoff_seconds(failures, 0) for failures in range(1, 5)] == [0.5, 1, 2, 4]
    assert backoff_seconds(1000, 0.99) == LONGEST_PAUSE


def test_backoff_jitter_adds_at_most_a_quarter() -> None:
    assert 2 < backoff_seconds(3, 0.5) < backoff_seconds(3, 0.999) < 2.5
