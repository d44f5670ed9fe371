"""What is asked of nodes' agents: their services' output, commands in containers, one-shot tasks, how a node is.

``where`` reads who runs what, ``choose`` decides whom to ask. ``line``, ``merge``, ``resume``, ``render`` and ``since``
are the pure parts of ``logs``; ``tail`` follows one node, ``together`` all of them. ``session`` carries a command's
output, input and signals, ``run`` brings it together with this side: ``outlet``, ``intake``, ``terminal``, ``signals``.
``diagnosis`` shows how a node is. Nothing here changes what a node should run.
"""
