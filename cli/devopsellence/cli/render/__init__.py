"""Display of an environment's snapshot: plain text, table, JSON and live screen.

``node_state`` and ``rows`` summarize nodes and services, ``groups`` combines nodes of the same state, ``progress``,
``task`` and ``ingress`` cover the rollout, the release task and the ingress; ``text``, ``json`` and ``screen`` (the
only module that imports rich) format all of these. ``reporter`` and ``lines`` show a snapshot after every change;
``terminal`` draws frames. Functions get the time as an argument; nothing here reads etcd.

``screen``, ``lines`` and ``reporter`` are covered by tests/unit/cli/render/test_groups.py and
tests/integration/cli/test_status_many.py; ``node_state`` by tests/unit/cli/render/test_rows.py.
"""
