"""Certificates of the cluster: authorities, subjects, what may be signed, when to renew.

Only ``authority`` and ``request`` import the cryptography library, which takes 8 MiB of memory: the agent imports
neither. Certificates of public hosts belong to the programs.
"""
