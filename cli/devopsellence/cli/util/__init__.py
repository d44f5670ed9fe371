"""Helpers without a subject of their own: addresses, files, text.

Nothing here knows of releases, nodes or etcd.
"""
