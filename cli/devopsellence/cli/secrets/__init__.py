"""Secrets: encrypted by operators, stored encrypted in etcd, decrypted by nodes and operators.

``records`` edits stored secrets; ``releases`` finds their versions in releases; ``recipients`` collects public keys;
``identity`` is the operator's own key. ``vault`` reads, sets and deletes secrets. ``items`` covers everything stored
encrypted, including private keys of certificates, and ``grant`` encrypts items for more recipients. ``sealing`` decides
for whom, everywhere; ``known`` keeps what this operator has confirmed. ``access`` handles nodes joining and leaving an
environment, ``pins`` the versions in a release. ``value`` and ``listing`` serve the commands.

A plaintext value stays in memory and must not appear in a record, event, message or exception. etcd holds age files
(``devopsellence.age``). Publishing releases belongs in ``deploy``. Reads and writes of etcd are covered by
tests/integration/cli.
"""

from __future__ import annotations

from devopsellence.cli.secrets.pins import pin, pin_versions, registry_password, warn_of_keyless

__all__ = ["pin", "pin_versions", "registry_password", "warn_of_keyless"]
