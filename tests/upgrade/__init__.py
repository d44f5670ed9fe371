"""Upgrade of a running cluster from an earlier revision, with that revision's own programs; part of ``make soak``.

Not among the tests of ``make test``: it needs the history of the repository, which a checkout may lack.
"""
