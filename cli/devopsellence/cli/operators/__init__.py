"""Operators of the cluster: their access records, the deny-list, and what a removed operator could decrypt.

``access`` adds, changes and lists records, ``removal`` withdraws everything in one transaction. ``tokens`` are
operators for CI jobs, ``recipients`` the keys that an admin approves. Certificates are issued by ``cluster``. Covered
by tests/integration/gateway (test_operator_commands, test_recipients) and tests/integration/cli/test_tokens.py.
"""
