"""The controller: turns releases into assignments, and statuses into rollouts.

``plan`` is the one pure entry, from a snapshot and the time to the writes; ``rollout``, ``assign``, ``scheduler`` and
``ingress`` contain its parts, ``model`` the data that all packages share. With IO: ``cache`` mirrors etcd,
``reconcile`` reads snapshots, plans and writes, ``certificates`` orders certificates, ``controller`` stands by and
leads, ``__main__`` is the command.

No code here talks to Docker or to an agent, and no state that the next leader would need is kept in memory.

``controller`` is covered by tests/integration/controller.
"""
