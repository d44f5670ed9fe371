"""Decisions of the gateway on calls. Pure: no IO, no clock.

``caller`` derives identity and rights from a certificate's common name, ``grants`` matches keys, ``records`` checks
values, ``reports`` what a node may report about, ``policy`` decides on requests, ``filters`` removes unreadable keys
from answers, ``leases`` marks the owner in a lease's id, ``limits`` bounds each caller, ``refusal`` is the answer no.

May not go in here: anything that calls etcd or waits. A key, method or field that no grant names is refused.
"""
