"""Report of visits and sent mails, as a one-shot command."""

import os

import redis

store = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
print(f"visits: {store.get('visits') or 0}, mails sent: {store.get('sent') or 0}")
