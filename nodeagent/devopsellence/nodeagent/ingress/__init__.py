"""Requests from outside: an Envoy on the node, given its configuration as files, that leads to the services here.

Here belongs what one node's router needs: what is to be routed (``model``), the files that say so (``xds``), the
folder that holds them (``files``), Envoy's container and image (``container``, ``image``), its admin interface
(``admin``), and the loop that joins them (``router``); what the controller sends besides assignments (``parts``), and
the private keys that are made here (``keys``).

Data flows one way: assignments, parts and what the plan says of containers become a :class:`model.Routing`, that
becomes files, and Envoy follows the files. What Envoy says of itself comes back as what may not be stopped yet, and as
status. Not here: which container serves (``plan_service``'s), and any decision about other nodes.
"""
