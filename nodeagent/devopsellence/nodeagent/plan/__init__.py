"""Pure decisions: desired state and observed containers in, actions with reasons out.

No IO, no clock, no randomness, no asyncio: every function can be tested as a table. Carrying actions out belongs in
``reconcile``.
"""
