"""Migration: no waiting and no retry, because Redis is ready before the start."""

import os

import redis

store = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
before = int(store.get("schema") or 0)
store.set("schema", before + 1)
print(f"schema {before} is now {before + 1}", flush=True)
