"""A controller and an etcd under a thousand nodes: hollow agents where agents matter, else plain records."""
