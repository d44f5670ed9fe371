"""Test bed: a cluster of several machines on this machine, for tests and for people (``make cluster``).

Every *machine* is a set of Linux namespaces with an address, a host name, processes, ``/etc``, ``/var/lib`` and
``/run``: programs there have the usual paths and ports. *Hosts* run a Docker Engine and an agent, *members* an etcd,
*controllers* a controller. A switch joins all machines, and every link can be cut. The operator's machine is this
machine: commands run here, with the Docker Engine of this machine.

A bed lives in a folder; any process can work with the bed from there. All processes of a machine end with the first
process of the machine, so a bed is taken down by killing the first processes and removing the folder.

``machine``: machine and programs. ``network``: switch. ``roles``: hosts, members, controllers. ``bed``: the whole, set
up through the real commands. ``app``: an app to deploy. ``load``: counted requests to the app. ``audit``: check for
lost, doubled and orphaned objects. ``__main__``: command line behind ``deploy/cluster.sh``. Tests do not belong here.
"""
