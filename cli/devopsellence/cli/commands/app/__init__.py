"""Commands that deploy and observe an app: deploy, status, logs, exec, task, secret, ingress, release, events.

Parse, call, render; the work belongs in the packages beside ``commands``.

The commands are covered by tests/integration/cli, their help by tests/unit/cli/test_summaries.py.
"""
