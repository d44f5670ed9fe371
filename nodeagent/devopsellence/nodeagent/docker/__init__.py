"""The Docker Engine: SDK client, async engine, container cache and the names of containers, networks and volumes.

The only package that imports the Docker SDK. No decisions about which container should run: those belong in ``plan``.
``client`` and ``streams`` are covered by tests/integration/nodeagent, ``interface`` by
tests/unit/bench/test_hollow.py, ``pipe`` by tests/unit/nodeagent/api/test_session.py.
"""
