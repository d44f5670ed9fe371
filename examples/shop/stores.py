"""The two supporting services, each behind a small class that says what it is for and survives the other's absence."""

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

SECONDS_TO_WAIT: Final = 0.5  # for a supporting service, before the page is answered without it


@dataclass(frozen=True)
class Offer:
    """The result of the long calculation, and where it came from."""

    product: str
    percent: int
    calculated_at: float  # seconds since 1970
    from_cache: bool


@dataclass(frozen=True)
class Visit:
    """All that the page shows."""

    version: str
    host: str
    visits: int | None  # None: Redis did not answer
    offer: Offer
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


class Counter:
    """How many visits there were, in Redis, where it outlives containers and deploys."""

    KEY: Final = "shop:visits"

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def at(cls, url: str) -> Counter:
        """The counter in the Redis at ``url``. Connects when it is first used."""
        return cls(redis.Redis.from_url(url, socket_timeout=SECONDS_TO_WAIT, socket_connect_timeout=SECONDS_TO_WAIT))

    def count(self, problems: list[str]) -> int | None:
        """One visit more: the new count, or None with the reason added to ``problems``."""
        try:
            return int(self._client.incr(self.KEY))
        except redis.RedisError as error:
            problems.append(f"Redis: {error}")
            return None


class Offers:
    """The day's offer: slow to find, so kept in memcached for a while. Found again when memcached has lost it."""

    KEY: Final = "shop:offer"
    SECONDS_TO_KEEP: Final = 30
    PRODUCTS: Final = ("a kettle", "a lamp", "a pair of scissors", "a teapot", "a wool blanket")

    def __init__(self, client: Any, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now

    @classmethod
    def at(cls, servers: str) -> Offers:
        """The offers in the memcached servers ``host:port,host:port``. Connects when it is first used."""
        return cls(
            HashClient(
                [server.strip() for server in servers.split(",")],
                connect_timeout=SECONDS_TO_WAIT,
                timeout=SECONDS_TO_WAIT,
                retry_attempts=0,
                dead_timeout=1,  # second, then a server that did not answer is asked again
                use_pooling=True,
            )
        )

    def offer(self, problems: list[str]) -> Offer:
        """The offer, from the cache if it is there; why the cache did not help is added to ``problems``."""
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
        """Takes a while on purpose: hashes until a rare one comes up."""
        start = int(self._now())
        attempt = start
        while not (digest := hashlib.sha256(str(attempt).encode()).digest()).startswith(b"\0\0"):
            attempt += 1
        return Offer(self.PRODUCTS[digest[2] % len(self.PRODUCTS)], 5 + digest[3] % 40, float(start), from_cache=False)
