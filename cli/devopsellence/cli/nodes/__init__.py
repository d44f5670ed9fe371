"""A machine's life as a node: ``registering`` it or another under its name, ``listing``, ``drain`` and ``remove``.

``occupancy`` says what a node runs, ``following`` waits for that to change, ``emptying`` what would become of it, and
``access`` is who gets into etcd as the node. What nodes run is decided by the controller: nothing here assigns.
"""
