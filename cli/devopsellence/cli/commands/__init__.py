"""The commands: a module per command or group, imported on use (see ``main.COMMANDS``).

A command parses arguments, calls the package that does the work, and passes the result to ``Output``. Only parsing and
texts belong here. Covered by tests/unit/cli/test_main.py and tests/unit/cli/test_summaries.py.
"""
