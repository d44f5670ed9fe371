"""Certificates of the cluster: authorities, subjects, what may be signed, when to renew.

``authority``, ``approval``, ``facts``, ``pem``, ``request`` and ``subjects`` import the cryptography library, which
takes 8 MiB of memory: the agent imports none of them. Certificates of public hosts belong to the programs.
"""
