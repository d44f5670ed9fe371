"""Placement of replicas over time, and the draining of nodes.

Pure. The filters and the spread that the command line shares belong in ``devopsellence.placement``.

``drain`` is covered by tests/unit/controller/scheduler/test_placement.py.
"""
