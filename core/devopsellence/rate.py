"""Rates: a bucket of tokens that fills at a rate. Pure: times are passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Amount that may be used at once, and that is regained each second."""

    burst: float
    per_second: float


class TokenBucket:
    """Bucket of tokens that fills at a rate."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = rate.burst
        self._at = now

    def has(self, amount: float, now: float) -> bool:
        self._left = min(self._rate.burst, self._left + (now - self._at) * self._rate.per_second)
        self._at = now
        return amount <= self._left

    def take(self, amount: float) -> None:
        self._left -= amount
