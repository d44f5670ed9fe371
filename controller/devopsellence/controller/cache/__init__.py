"""Informer caches of the store: what is stored, indexed by the environments and nodes that a key concerns.

Reads only. No decisions, and no writes to etcd.

``store_cache`` is covered by tests/integration/controller/test_controller.py.
"""
