"""Envoy: its configuration files, its container, its admin API.

Modules here render a :class:`~devopsellence.nodeagent.envoy.model.NodeRouting` into the files that Envoy watches
(``config``, ``listeners``, ``routes``, ``clusters``, ``tls``), keep the folder of those files (``files``), run the
container (``image``, ``container``, ``supervisor``), and read Envoy's admin API (``admin``). Decisions about routing
(hosts, certificates, ports, the state of an environment) do not belong here: see ``ingress``, which imports this
package and is never imported by it. Nothing here knows of assignments, plans or etcd.
"""
