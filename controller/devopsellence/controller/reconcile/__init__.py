"""The reconcile loop of the controller: queue, workers, the reconciler and its fenced writes.

Thin: observe a snapshot, call ``plan``, write. Decisions belong in ``plan``, ``rollout``, ``assign`` and ``scheduler``.

``observe`` is covered by tests/unit/controller/reconcile/test_reconciler.py.
"""
