"""Takes what the page puts on the queue, one at a time, and counts what it has sent."""

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
