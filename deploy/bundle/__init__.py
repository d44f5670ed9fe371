"""Bundles: one archive that holds all that a machine of a cluster runs, built by ``make bundle``.

``tree`` composes a minimal root tree of Debian packages (``debian``) and locked Python packages (``python_packages``),
with the systemd units that start the programs in it (``units``). ``manifest`` and ``sbom`` describe the tree,
``archive`` packs it; equal trees give equal bytes. README.md says what belongs in a bundle.

Only the standard library and ``packaging`` are imported here; no program of the project imports this package.
"""
