"""Certificates by ACME (RFC 8555): the leader orders certificates, a node creates and keeps the private key.

All state is in etcd: Certificate records, statuses, assignments. Pure: ``demand``, ``next_step``, ``record``,
``failure``, ``csr``. With IO: ``issuer`` and ``order`` run the steps, ``writer`` writes records, ``acme`` alone imports
the ACME client. No private key of a certificate reaches the controller; ACME account keys exist only in the memory of
the leader.

The ACME client and cryptography are imported when needed, so that a controller without ingress does not pay for them.

``order``, ``record`` and ``writer`` are covered by tests/unit/controller/certificates/test_issuer.py, ``acme`` by
tests/integration/controller/test_acme.py.
"""
