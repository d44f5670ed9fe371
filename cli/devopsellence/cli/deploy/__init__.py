"""Deploy, rollback and reapply: every command that writes a release and follows its rollout.

``deploy`` runs the steps: ``preflight`` and ``ingress`` checks, images (package ``images``), ``publish`` (the
transaction that writes the release), ``follow`` until the rollout settles. ``preview`` and ``plan`` are ``--dry-run``.
``rollback`` and ``reapply`` write a release from an older one. ``preflight`` and ``plan`` are pure. Docker commands
belong in ``images``, display in ``render``.
"""
