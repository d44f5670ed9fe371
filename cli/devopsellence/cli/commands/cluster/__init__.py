"""Commands for cluster operators: node, cluster, doctor.

Parse, call, render; the work belongs in the packages beside ``commands``.
"""
