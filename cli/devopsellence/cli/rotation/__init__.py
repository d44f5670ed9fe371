"""Replacement of the cluster's root authority, in three steps between which files are copied to machines.

``stages`` changes the files of the cluster's folder, ``probe`` tries TLS with gateways and agents, ``routers`` follows
heartbeats, ``steps`` works through the gateways, ``rotation`` puts them together. May not go in here: certificates of
single machines, see ``cluster``. Covered by tests/cluster/test_rotation.py, stages and routers by unit tests.
"""
