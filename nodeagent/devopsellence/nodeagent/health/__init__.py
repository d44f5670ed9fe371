"""Probes of running containers: HTTP, TCP and exec.

Probe results only. The planner decides what follows from a result.
"""
