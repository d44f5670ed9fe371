"""The agent's own certificate: a new key in a short-lived process, signed by a gateway.

When to renew, and the replacement of the files, is the same for all programs: see ``devopsellence.certificates``.
Certificates of hosts belong in ``ingress``. Tested by tests/integration/gateway/test_renewal.py.
"""
