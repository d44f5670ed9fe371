"""Setup of a cluster: certificate authority (CA), certificates, settings files.

``folder`` is the folder of the CA and its certificates, ``issue`` creates and renews certificates, ``signer`` is the CA
or a gateway that signs them, ``programs`` has the command lines and variables of etcd, controllers and agents,
``access`` the settings of root and the access of operators, ``init`` and ``join`` the commands. No access to other
machines: people or their tools copy the files and join tokens. Files and certificates are covered by
tests/integration/cli/test_cluster.py.
"""
