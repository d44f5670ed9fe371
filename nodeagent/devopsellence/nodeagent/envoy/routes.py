"""Envoy routes: a virtual host for each host, with routes in matching order.

Three routes for each prefix: WebSockets, with a longer idle timeout; safe methods (RFC 9110, section 9.2.1), retried
once even after a lost response; all remaining requests, retried once only if the request cannot have arrived.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from devopsellence.agent_identity import NODE_DOMAIN, ROUTER_DOMAIN
from devopsellence.nodeagent.envoy.clusters import LOCAL_ONLY, cluster_name
from devopsellence.nodeagent.envoy.model import ListenerConfig, NodeRouting, Route, RoutingConfig
from devopsellence.nodeagent.envoy.resources import Message, extension, response
from devopsellence.nodeagent.envoy.tls import https_hosts

ROUTES: Final = "envoy.config.route.v3.RouteConfiguration"
HTTP: Final = "http"
HTTPS: Final = "https"
PEERS: Final = "peers"
CHALLENGES: Final = "/.well-known/acme-challenge/"

_WEBSOCKET_IDLE: Final = "3600s"
_HTTPS_PORT: Final = 443
_UNSENT: Final = "connect-failure,refused-stream,reset-before-request"
_UNANSWERED: Final = f"{_UNSENT},reset"
_SAFE: Final[Message] = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD|OPTIONS"}}}
_WEBSOCKET: Final[Message] = {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}}
#: Headers that Envoy would add for services.
_ENVOY_HEADERS: Final = ("x-envoy-external-address", "x-envoy-internal")
#: Headers of a proxy in front of Envoy: there is none, so clients made the values up.
_UNTRUSTED_HEADERS: Final = ("forwarded", "x-real-ip")
#: Header in which Envoy names the certificate of a peer, for the routes.
_CERTIFICATE_HEADER: Final = "x-forwarded-client-cert"


def routes_path(name: str) -> str:
    """Return the path of the file with the routes of a listener."""
    return f"rds/{name}.json"


def routes_file(name: str, routing: NodeRouting, listen: ListenerConfig) -> bytes:
    """Return the file with the routes of the listener :data:`HTTP`, :data:`HTTPS` or :data:`PEERS`."""
    if name == HTTP:
        return _http_routes(routing, listen)
    return _https_routes(routing, listen) if name == HTTPS else _peer_routes(routing, listen)


def _http_routes(routing: NodeRouting, listen: ListenerConfig) -> bytes:
    """Routes of plain HTTP: ACME challenges, redirects to HTTPS, services."""
    hosts = []
    for config in routing.configs:
        secure = set(https_hosts(config, listen)) if config.redirect else set()
        for host in sorted(config.hosts):
            routes = _redirects(host, listen.https_port) if host in secure else _proxied(config, host)
            hosts.append(_virtual_host(host, [*_challenges(config, host), *routes]))
    return _configuration(HTTP, hosts, listen.http_port)


def _https_routes(routing: NodeRouting, listen: ListenerConfig) -> bytes:
    """Routes of HTTPS, for hosts with a certificate."""
    hosts = [
        _virtual_host(host, list(_proxied(config, host)))
        for config in routing.configs
        for host in https_hosts(config, listen)
    ]
    return _configuration(HTTPS, hosts, listen.https_port)


def _peer_routes(routing: NodeRouting, listen: ListenerConfig) -> bytes:
    """Routes for peers: to endpoints of this node only.

    What a forwarder says about the client is unchanged. Any other node counts as a client, like everybody who reaches
    the port for HTTPS: its certificate gives it no say about hosts that it does not forward. It is not refused, because
    two nodes learn at different moments that one forwards to the other.
    """
    hosts = []
    for config in routing.configs:
        forwarder = _has_certificate_of(config.forwarders)
        for host in sorted(config.hosts):
            routes = list(_proxied(config, host, local_only=True))
            if config.forwarders is not None:
                believed = [_only_if(forwarder, route) for route in routes] if forwarder is not None else []
                routes = [*believed, *({**route, **_as_client(listen.https_port)} for route in routes)]
            hosts.append(_virtual_host(host, routes))
    configuration = {
        "name": PEERS,
        "virtual_hosts": hosts,
        "request_headers_to_remove": [*_ENVOY_HEADERS, _CERTIFICATE_HEADER],
        **_COMMON,
    }
    return response(ROUTES, [configuration])


def _has_certificate_of(forwarders: Collection[str] | None) -> Message | None:
    """Return the condition that the client's certificate has one of these DNS names; None without names.

    Envoy's header has the form ``Hash=…;DNS=…``; nobody but Envoy can write it here.
    """
    if not forwarders:
        return None
    # The first label tells the machine, in the name of a node and in that of a router. Spelled out for each, the domain
    # would be most of the expression.
    labels = "|".join(sorted(name.partition(".")[0] for name in forwarders))
    domains = "|".join(domain.replace(".", "[.]") for domain in (NODE_DOMAIN, ROUTER_DOMAIN))
    regex = f"(.*;)?DNS=({labels})[.]({domains})(;.*)?"
    return {"name": _CERTIFICATE_HEADER, "string_match": {"safe_regex": {"regex": regex}}}


def _only_if(condition: Message, route: Message) -> Message:
    match = route["match"]
    return {**route, "match": {**match, "headers": [*match.get("headers", ()), condition]}}


def _as_client(https_port: int) -> Message:
    """Return the fields of a route that replace everything that the sender says about a client."""
    headers = {
        **_about_client(https_port or _HTTPS_PORT),
        "x-forwarded-proto": "https",
        "x-request-id": "%UNIQUE_ID%",
    }
    return {
        "request_headers_to_remove": list(_UNTRUSTED_HEADERS),
        "request_headers_to_add": _overwritten(headers),
    }


def _about_client(port: int) -> dict[str, str]:
    """Return the forwarding headers. The address is that of the connection, also at a listener that knows another."""
    return {
        "x-forwarded-for": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
        "x-forwarded-host": "%REQ(:AUTHORITY)%",
        "x-forwarded-port": str(port),
    }


def _overwritten(headers: Mapping[str, str]) -> list[Message]:
    return [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in headers.items()
    ]


_COMMON: Final[Message] = {"ignore_port_in_host_matching": True}


def _configuration(name: str, hosts: list[Message], port: int) -> bytes:
    """Return a route configuration with the forwarding headers for services, never the client's own values.

    Envoy itself sets ``X-Forwarded-Proto``, because of ``use_remote_address``.
    """
    configuration = {
        "name": name,
        "virtual_hosts": hosts,
        "request_headers_to_remove": [*_UNTRUSTED_HEADERS, *_ENVOY_HEADERS],
        "request_headers_to_add": _overwritten(_about_client(port)),
        **_COMMON,
    }
    return response(ROUTES, [configuration])


def _virtual_host(host: str, routes: list[Message]) -> Message:
    return {"name": host, "domains": [host], "routes": routes, "retry_policy": _retry(_UNSENT)}


def _challenges(config: RoutingConfig, host: str) -> Iterator[Message]:
    """Yield the responses to ACME HTTP challenges (RFC 8555, section 8.3)."""
    for token, authorization in sorted(config.challenges.get(host, ())):
        yield {
            "match": {"path": CHALLENGES + token},
            "direct_response": {"status": 200, "body": {"inline_string": authorization}},
        }


def _redirects(host: str, port: int) -> Iterator[Message]:
    """Yield the redirects to HTTPS: 301 for safe methods, 308 (keeps the method) for all methods."""
    target: Message = {"https_redirect": True, "host_redirect": host}
    if port != _HTTPS_PORT:
        target["port_redirect"] = port
    yield {"match": {"prefix": "/", "headers": [_SAFE]}, "redirect": target}
    yield {"match": {"prefix": "/"}, "redirect": {**target, "response_code": "PERMANENT_REDIRECT"}}


def _proxied(config: RoutingConfig, host: str, *, local_only: bool = False) -> Iterator[Message]:
    """Yield the routes of a host to services, the longest prefix first."""
    for prefix, route in sorted(_by_prefix(config, host).items(), key=lambda item: (-len(item[0]), item[0])):
        path = {"prefix": "/"} if prefix == "/" else {"path_separated_prefix": prefix}
        to: Message = {"cluster": cluster_name(config.ref, route.service, route.port), "timeout": "0s"}
        if local_only:
            to["metadata_match"] = LOCAL_ONLY
        yield {"match": {**path, "headers": [_WEBSOCKET]}, "route": {**to, "idle_timeout": _WEBSOCKET_IDLE}}
        yield {"match": {**path, "headers": [_SAFE]}, "route": {**to, "retry_policy": _retry(_UNANSWERED)}}
        yield {"match": path, "route": to}


def _by_prefix(config: RoutingConfig, host: str) -> dict[str, Route]:
    """Return a host's routes by prefix, without trailing slashes: as Kubernetes' path type ``Prefix``.

    If two prefixes differ by the trailing slash only, the prefix without the slash wins.
    """
    by_prefix: dict[str, Route] = {}
    for route in sorted(config.routes, key=lambda route: route.prefix):
        if route.host == host:
            by_prefix.setdefault(route.prefix.rstrip("/") or "/", route)
    return by_prefix


def _retry(on: str) -> Message:
    """Return a policy of one retry, on another endpoint: of this node if possible, otherwise of a peer."""
    package = "envoy.extensions.retry"
    return {
        "retry_on": on,
        "num_retries": 1,
        "retry_host_predicate": [
            extension(
                "envoy.retry_host_predicates.previous_hosts", f"{package}.host.previous_hosts.v3.PreviousHostsPredicate"
            )
        ],
        "host_selection_retry_max_attempts": 10,
        "retry_priority": extension(
            "envoy.retry_priorities.previous_priorities",
            f"{package}.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            {"update_frequency": 1},
        ),
        "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
    }
