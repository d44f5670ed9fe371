"""Public ingress for operators: configuration, certificates, and the check from outside.

``hosts`` finds conflicts between environments. ``edit_config`` edits devopsellence.yml. ``pem`` validates certificate
files, ``certificates`` stores certificates, ``show`` displays rules and certificates. ``check`` runs ``ingress check``
with ``dns``, ``probe`` (ports, TLS, HTTP) and ``check_findings``; ``dns_warnings`` is the DNS check of a deploy.
``cluster_summary`` covers all environments. The ingress part of ``status`` belongs in ``render``. Only ``dns`` imports
dnspython, and only when used.

``check``, ``dns``, ``probe``, ``show``, ``certificates`` and ``cluster_summary`` are covered by tests/integration/cli
(test_ingress_check.py, test_ingress_cert.py, test_ingress_deploy.py).
"""
