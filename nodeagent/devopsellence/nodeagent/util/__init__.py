"""Helpers without a subject of their own: thread pools, memory, the process.

Nothing here knows of nodes, services or Docker. ``memory`` is covered by tests/integration/hollow, whose agents run
with a MemoryTrimmer.
"""
