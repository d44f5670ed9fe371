"""Clients of the two supporting services; an outage of Redis or memcached is reported, not fatal."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import redis
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheError

SECONDS_TO_WAIT: Final = 0.5  # timeout of a supporting service, then the page is answered without


@dataclass(frozen=True)
class Offer:
    """Result of the long calculation, and its source."""

    product: str
    percent: int
    calculated_at: float  # seconds since 1970
    from_cache: bool


@dataclass(frozen=True)
class Visit:
    """Content of the page."""

    version: str
    host: str
    visits: int | None  # None: Redis did not answer
    offer: Offer
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


class Counter:
    """Counter of visits, in Redis, persistent across containers and deploys."""

    KEY: Final = "shop:visits"

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def at(cls, url: str) -> Counter:
        """Create a counter in the Redis at ``url``; connects at the first use."""
        return cls(redis.Redis.from_url(url, socket_timeout=SECONDS_TO_WAIT, socket_connect_timeout=SECONDS_TO_WAIT))

    def count(self, problems: list[str]) -> int | None:
        """Count a visit; return the new count, or None with the reason added to ``problems``."""
        try:
            return int(self._client.incr(self.KEY))
        except redis.RedisError as error:
            problems.append(f"Redis: {error}")
            return None


class Offers:
    """Offer of the day: slow to calculate, so cached in memcached for a while."""

    KEY: Final = "shop:offer"
    SECONDS_TO_KEEP: Final = 30
    PRODUCTS: Final = ("a kettle", "a lamp", "a pair of scissors", "a teapot", "a wool blanket")

    def __init__(self, client: Any, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now

    @classmethod
    def at(cls, servers: str) -> Offers:
        """Create offers cached in the memcached servers ``host:port,host:port``; connects at the first use."""
        return cls(
            HashClient(
                [server.strip() for server in servers.split(",")],
                connect_timeout=SECONDS_TO_WAIT,
                timeout=SECONDS_TO_WAIT,
                retry_attempts=0,
                dead_timeout=1,  # seconds until a failed server is tried again
                use_pooling=True,
            )
        )

    def offer(self, problems: list[str]) -> Offer:
        """Return the offer, from the cache if present; a failure of the cache is added to ``problems``."""
        try:
            found = self._client.get(self.KEY)
            if found is not None:
                return Offer(**json.loads(found), from_cache=True)
            offer = self._calculate()
            kept = {name: value for name, value in asdict(offer).items() if name != "from_cache"}
            self._client.set(self.KEY, json.dumps(kept).encode(), expire=self.SECONDS_TO_KEEP)
        except (OSError, MemcacheError, TypeError, ValueError) as error:
            problems.append(f"memcached: {str(error) or type(error).__name__}")
            return self._calculate()
        return offer

    def _calculate(self) -> Offer:
        """Calculate the offer, slowly on purpose: search for a rare hash."""
        start = int(self._now())
        attempt = start
        while not (digest := hashlib.sha256(str(attempt).encode()).digest()).startswith(b"\0\0"):
            attempt += 1
        return Offer(self.PRODUCTS[digest[2] % len(self.PRODUCTS)], 5 + digest[3] % 40, float(start), from_cache=False)
