"""The audit trail of a cluster, read from all gateways: each has the calls that were made through it.

``client`` asks the gateways, ``merge`` (pure) puts their answers together, ``render`` (pure) shows entries.

May not go in here: who may read what, which the gateways decide. Covered by
tests/integration/gateway/test_audit_command.py as well.
"""
