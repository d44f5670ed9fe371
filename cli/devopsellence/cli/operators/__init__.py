"""Operators of the cluster: their access records, the deny-list, and what a removed operator could decrypt.

``access`` adds, changes and lists records, ``removal`` withdraws everything in one transaction. Certificates are
issued by ``cluster``. Covered by tests/integration/gateway/test_operator_commands.py.
"""
