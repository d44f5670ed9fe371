"""Benchmarks: figures measured on this machine, against a peer in the same run.

``python -m bench`` (or ``make bench``) starts a local cluster of its own in a temporary folder, measures, prints a
table and writes the figures as JSON. Times vary by machine and by minute; the meaningful result is the ratio to
``docker run`` or another peer, measured in turn. Nothing here asserts a time; tests are in ``tests/``.

``cluster`` starts and stops the local cluster, ``scenarios`` measures, ``report`` prints.
"""
