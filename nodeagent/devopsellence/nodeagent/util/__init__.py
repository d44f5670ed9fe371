"""Helpers without a subject of their own: thread pools and memory.

Nothing here knows of nodes, services or Docker. ``memory`` is covered by bench/rest.py.
"""
