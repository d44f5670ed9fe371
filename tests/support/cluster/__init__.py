"""A cluster of several machines on one: the several-host test bed, for tests and for people (``make cluster``).

Each *machine* is a set of Linux namespaces with an address of its own, its own host name, processes, ``/etc``,
``/var/lib`` and ``/run``: what runs there has the usual paths and ports. *Hosts* have a Docker Engine and an agent,
*members* an etcd, *controllers* a controller. All are joined by a switch, at which a link can be cut. The operator is
this machine: commands run here, with the Docker Engine that is here.

A bed lives in one folder, and any process can take it up from there. Everything in a machine ends with the machine's
first process, so that taking a bed down is to kill those and to remove the folder.

``machine`` what every machine is, ``network`` the switch, ``roles`` what runs where, ``bed`` the whole and how it is
set up through the real commands, ``app`` an app to deploy, ``load`` requests to it that are counted, ``audit`` whether
anything was lost, doubled or orphaned. ``__main__`` is what ``deploy/cluster.sh`` runs.
"""
