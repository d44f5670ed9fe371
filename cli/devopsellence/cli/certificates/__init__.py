"""Keys and certificates of the cluster: the authority (CA), the subjects of certificates, approvals signed with them.

Certificates of public hosts belong in ``ingress``.
"""
