"""Commands for cluster operators: node, cluster, doctor.

Parse, call, render; the work belongs in the packages beside ``commands``.

The commands are covered by tests/integration/cli, their help by tests/unit/cli/test_summaries.py.
"""
