"""Envoy and its configuration files: listeners, routes, clusters, secrets, the container and its supervisor.

Renders a routing model into files and reads Envoy's admin API. Which requests go where is decided in ``ingress``.
"""
