"""Commands for operators of a cluster: node, cluster, doctor.

Parse, call, render; the work belongs in the packages beside ``commands``.
"""
