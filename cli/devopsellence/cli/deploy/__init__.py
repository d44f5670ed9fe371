"""The steps of a deploy, apart from the command that takes them.

``reference`` and ``pin`` say which bytes run, ``engine`` runs the ``docker`` command line, ``build`` makes the app
image, ``source`` asks git, ``check`` finds services without a node, ``publish`` writes the release, ``plan`` says what
a deploy would do, ``watcher`` and ``follow`` watch it land. ``reference``, ``check`` and ``plan`` are pure.

Images reach the nodes by ``distribute``: ``wants`` and ``room`` decide who lacks what and whether it fits (both pure),
``archive`` finds layers in what docker saved, ``send`` sends them, ``sending`` shows how far they are. Or by a
``registry``. ``prune`` takes old ones away from the engine that builds.
"""
