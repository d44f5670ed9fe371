"""Images on the way to the nodes: build, pin to a digest, upload, prune.

The only package of the CLI that runs the docker command. Writing the release belongs in ``deploy``.

``docker_cli``, ``distribute``, ``upload`` and ``registry`` are covered by tests/integration/images; ``pin`` by
tests/unit/cli/images/test_reference.py.
"""
