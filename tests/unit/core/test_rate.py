"""Rates, with times passed in."""

from __future__ import annotations

from devopsellence.rate import Rate, TokenBucket


def test_bucket_fills_up_to_its_burst() -> None:
    bucket = TokenBucket(Rate(10, 2), 0.0)
    bucket.take(10)
    assert not bucket.has(1, 0.4)
    assert bucket.has(1, 0.5)
    assert bucket.has(10, 100.0)
    assert not bucket.has(11, 1000.0)
