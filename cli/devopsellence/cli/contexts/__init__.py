"""Contexts: named clusters in a file of the user.

Contexts are recorded, read and changed here. No choice between a context and other settings (``cli.choice``), and no
connection to a cluster.
"""
