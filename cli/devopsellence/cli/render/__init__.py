"""From messages to what is shown: pure functions, no IO, no clock of their own.

``snapshot`` is what was read of one environment, ``rows`` turns it into lines with reasons, ``document`` into JSON,
``text`` into plain text for a pipe, ``screen`` into tables and bars for a terminal (the only module that imports rich).
"""
