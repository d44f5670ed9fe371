"""Mailer: takes mails from the queue and counts the sent mails."""

import os
import signal

import redis

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
store = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
print("waiting for mails", flush=True)
while True:
    taken = store.blpop(["mails"], timeout=5)
    if taken is not None:
        store.incr("sent")
        print(f"sent: {taken[1]}", flush=True)
