"""Secrets as an operator handles them: sealed here, stored sealed, opened by nodes and by other operators.

``records`` is what a stored secret is and becomes, ``releases`` what releases say about it; ``readers`` finds whom to
seal for, ``identity`` who we are. ``vault`` reads, sets and deletes; ``items`` is everything that is sealed, also the
private keys of certificates, and ``sealing`` lets more readers in. ``pins`` makes a
release refer to versions, ``members`` is about nodes that come and go. ``value``, ``setting``, ``apply`` and
``listing`` serve the commands.

A value is in memory only: it goes into no record, event, message or exception. etcd holds age files
(``devopsellence.age``).
"""

from __future__ import annotations

from devopsellence.cli.secrets.pins import pin, pin_versions, registry_password, warn_of_keyless

__all__ = ["pin", "pin_versions", "registry_password", "warn_of_keyless"]
