"""The agent's own certificate: signed by a gateway for a key that is made here, at first by a join token.

When to renew, and the replacement of the files, is the same for all programs: see ``devopsellence.certificates``.
Certificates of hosts belong in ``ingress``. Tested by
tests/integration/gateway/test_renewal.py and tests/integration/cli/test_join.py.
"""
