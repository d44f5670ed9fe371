"""The controller: turns releases into assignments, and statuses into rollouts.

Pure, with the time passed in: ``task`` (where the release task runs, and how it fares), ``phases`` (what waits for it),
``secrets`` (which ciphertexts go where), ``assign`` (what one node should run, and how it is taken back), ``assigning``
(all nodes), ``progress`` and ``rollout`` (how the newest release fares), ``plan`` (all of it, for one environment),
``events``, ``identity``, ``index``, ``transactions``; ``world`` and ``actions`` name what goes in and comes out. With
IO: ``caches`` holds the informers, ``workqueue`` and ``workers`` the environments to look at, ``reconcile`` observes,
plans and writes fenced, ``run`` stands by and leads, ``__main__`` is the command.

Nothing here talks to Docker or to an agent, and nothing is kept in memory that the next leader would miss.
"""
