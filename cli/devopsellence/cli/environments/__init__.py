"""Environments as a whole: which there are, what is left of one on the nodes, and how one is deleted."""
