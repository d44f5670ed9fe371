"""General helpers: addresses, files, text. No knowledge of releases, nodes or etcd belongs here."""
