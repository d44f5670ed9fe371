"""Program behind ``signing``: writes a new key and a signing request for it to standard output, as JSON.

A process of its own, because the cryptography library costs a process 8 MiB for good.
"""

from __future__ import annotations

import json
import sys

from devopsellence.certificates.request import new_request
from devopsellence.nodeagent.util.process import protect_memory

if __name__ == "__main__":
    protect_memory()
    made = new_request()
    json.dump({"csr": [made.csr.hex()], "key": [made.key.decode()]}, sys.stdout)
