"""Pure decisions: desired state and observed containers in, actions with reasons out.

No IO, no clock, no randomness, no asyncio: every function can be tested as a table. Executing actions belongs in
``reconcile``. ``service``, ``service_state`` and ``environment`` are covered by
tests/unit/nodeagent/plan/test_environment.py, test_depends_on.py and test_cuts.py (every plan cut anywhere converges).
"""
