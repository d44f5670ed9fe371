"""Images on the way to the nodes: build, pin to a digest, upload, prune.

The only package of the CLI that runs the docker command. Writing the release belongs in ``deploy``.
"""
