"""Frozen data that the other packages share: snapshot of an environment, actions, events, reachability.

No IO, no clock, and no imports from the other packages of the controller.
"""
