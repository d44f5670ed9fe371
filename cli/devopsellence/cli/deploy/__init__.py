"""Deploy, rollback and reapply: every command that writes a release and follows its rollout.

``deploy`` runs the steps: ``preflight`` and ``ingress`` checks, images (package ``images``), ``publish`` (the
transaction that writes the release), ``follow`` until the rollout settles. ``preview`` and ``plan`` are ``--dry-run``.
``rollback`` and ``reapply`` write a release from an older one. ``preflight`` and ``plan`` are pure. Docker commands
belong in ``images``, display in ``render``.

``deploy``, ``publish``, ``preview``, ``reapply`` and ``git`` are covered by tests/integration/cli (test_deploy.py,
test_publish.py, test_secret_apply.py, test_source.py); ``ingress`` by tests/unit/cli/ingress/test_hosts.py.
"""
