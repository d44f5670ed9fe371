"""Access of operators: roles, what each permits in which environments, and certificates that are denied. Pure.

``roles`` has the table of roles and actions, ``patterns`` names environments, ``rights`` derives an operator's rights
from its record, ``denied`` looks certificates up, ``policy`` decides on callers. The gateways, the agents and the
command line decide with this code alone.

May not go in here: keys of etcd, calls of the agent API, IO.
"""
