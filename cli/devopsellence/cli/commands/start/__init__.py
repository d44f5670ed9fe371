"""Commands of the section Getting started: init, dev, config, completion, help, version.

Parse, call, render; the work belongs in the packages beside ``commands``.

The commands are covered by tests/integration/dev and tests/integration/cli, their help by
tests/unit/cli/test_summaries.py.
"""
