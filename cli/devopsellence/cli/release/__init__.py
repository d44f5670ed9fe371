"""The steps of a deploy, apart from the command that takes them.

``reference`` and ``pin`` say which bytes run, ``engine`` runs the ``docker`` command line, ``build`` makes the app
image, ``source`` asks git, ``check`` finds services without a node, ``publish`` writes the release, ``plan`` says what
a deploy would do, ``watcher`` and ``follow`` watch it land. ``reference``, ``check`` and ``plan`` are pure.
"""
