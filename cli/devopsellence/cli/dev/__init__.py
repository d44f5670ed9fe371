"""The local cluster: an etcd, a controller and an agent on this machine, as this user's background processes.

``state`` is what is remembered (cheap to import: every command asks it for the cluster), ``supervisor`` is the process
that keeps the three alive, ``up``, ``down`` and ``report`` are what the commands do, ``keeper`` is how they speak to
the supervisor, ``engine`` the few requests to the Docker Engine that they need. The supervisor's modules
(``supervisor``, ``child``, ``spec``, ``layout``, ``logs``, ``proc``, ``files``) import nothing but the standard
library, so that the process that is always there stays small.

Nothing here knows what the controller and the agent do; they are command lines.
"""
