"""Keys and certificates of the cluster: the authority, and the subjects that it certifies.

Certificates of public hosts belong in ``ingress``.
"""
