"""Audit of the agent's API: what operators ask the node itself, which no gateway sees.

``spool`` (pure) holds the entries that no gateway has stored yet, ``reporter`` keeps them on disk and sends them.

May not go in here: which calls are entries, see ``api.audit``. Covered by
tests/integration/gateway/test_audit_reporter.py as well.
"""
