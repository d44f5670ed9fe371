"""Keys and certificates of the cluster: the certificate authority (CA) and the subjects of certificates.

Certificates of public hosts belong in ``ingress``.
"""
