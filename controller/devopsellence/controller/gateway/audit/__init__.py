"""The audit trail of one gateway: who called, from where, what for, allowed or refused.

Pure: ``describe`` puts requests into words, ``retention`` decides which files go, ``selection`` which entries an
operator may read, ``reports`` checks entries that a node reports. With IO: ``day_files`` are the files of one kind of
entries, ``trail`` writes in batches, reads and tells followers, ``log`` makes the entries and log lines of calls.

May not go in here: the gRPC service (``gateway.audit_service``), decisions on calls. Covered by
tests/integration/gateway/test_audit.py as well.
"""
