"""Figures, measured on the machine at hand against the thing they are compared with, in the same run.

``python -m bench`` (or ``make bench``) starts a local cluster of its own in a temporary folder, measures, prints a
table and writes the same as JSON. Times vary by machine and by minute: what counts is the ratio to ``docker run`` (or
to what else stands beside a figure), taken pair by pair. Nothing here asserts a time; tests live in ``tests/``.

``cluster`` starts and stops what is measured, ``scenarios`` measures, ``report`` prints.
"""
