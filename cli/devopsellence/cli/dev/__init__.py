"""The local cluster: etcd, a controller and an agent on this machine, as background processes of this user.

``up``, ``down`` and ``status`` implement the commands. ``state`` holds the saved settings; every command imports
``state`` to find the cluster, so the import is cheap. ``supervisor`` is the process that restarts the other three;
``supervisor_control`` starts and stops the supervisor. ``docker_api`` makes a few requests to the Docker Engine.

The modules of the supervisor (``supervisor``, ``child``, ``spec``, ``paths``, ``logs``, ``process``, ``util.files``)
import only the standard library, so that the long-running process stays small. No knowledge about the work of the
controller and the agent: both are just command lines. No other package imports this one, except ``context`` and the
command ``dev``. Processes, Docker, certificates and files are covered by tests/integration/dev.
"""
