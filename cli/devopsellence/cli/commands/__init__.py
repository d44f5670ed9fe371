"""One module per command or group of commands, each imported when it runs (see ``main.COMMANDS``).

A command parses its arguments, calls what does the work, and hands the result to ``Output``. What does the work
stands in a module of its own when it is more than a few lines, and there when it is pure.
"""
