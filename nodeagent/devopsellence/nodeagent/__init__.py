"""The program on every machine: makes the local Docker Engine run what etcd assigns to this node, and says what it saw.

Here belongs what one machine needs to converge: names and specs of containers (``naming``, ``spec``), what is observed
(``model``, ``observe``), what is remembered of attempts (``memory``), the decision (``plan``), carrying it out
(``actions``, ``docker``), health checks, the report, the copy on disk and the loop that joins them.

Not here: anything about other nodes, releases or rollouts (the controller's), and any direct use of the etcd client.
``plan``, ``spec``, ``probes``, ``dependencies``, ``naming``, ``memory``, ``observe`` and ``report`` are pure: no IO, no
clock. Only ``docker`` and ``streams`` import the Docker SDK.
"""
