"""Certificates by ACME (RFC 8555): the leader orders them, a node makes and keeps the private key.

Everything that a course rests on is in etcd: the Certificate records, the statuses, the assignments. What is decided is
pure (``demand``, ``course``, ``edits``, ``failure``, ``signing``); ``acme`` alone knows the ACME client; ``issuer`` and
``attempt`` are the thin part that does. No private key of a certificate ever comes here; the only keys are those of the
ACME accounts, in the memory of whoever leads.

What a controller without ingress must not pay for (the ACME client, cryptography) is imported when it is needed.
"""
