"""Which request goes where: a virtual host for each host, with its routes in the order in which Envoy tries them.

For each prefix there are three routes: WebSockets, which may be silent for longer; requests that change nothing (RFC
9110, section 9.2.1), which are sent once more also when the answer does not come; and all others, which are sent once
more only when they cannot have arrived.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from devopsellence.nodeagent.envoy.clusters import LOCAL_ONLY, cluster_name
from devopsellence.nodeagent.envoy.model import Listen, Route, Routing, Site
from devopsellence.nodeagent.envoy.resources import Message, extension, response
from devopsellence.nodeagent.envoy.tls import secure_hosts

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
#: What Envoy would tell services.
_ENVOYS: Final = ("x-envoy-external-address", "x-envoy-internal")
#: What only a proxy in front of this one could know, and there is none.
_UNTRUSTED: Final = ("forwarded", "x-real-ip")


def routes_path(name: str) -> str:
    """Where the routes of a listener are."""
    return f"rds/{name}.json"


def routes(name: str, routing: Routing, listen: Listen) -> bytes:
    """The file with the routes of the listener :data:`HTTP`, :data:`HTTPS` or :data:`PEERS`."""
    if name == HTTP:
        return _http_routes(routing, listen)
    return _https_routes(routing, listen) if name == HTTPS else _peer_routes(routing)


def _http_routes(routing: Routing, listen: Listen) -> bytes:
    """What is asked by plain HTTP."""
    hosts = []
    for site in routing.sites:
        secure = set(secure_hosts(site, listen)) if site.redirect else set()
        for host in sorted(site.hosts):
            leads_on = _redirects(host, listen.https_port) if host in secure else _proxied(site, host)
            hosts.append(_virtual_host(host, [*_challenges(site, host), *leads_on]))
    return _configuration(HTTP, hosts, listen.http_port)


def _https_routes(routing: Routing, listen: Listen) -> bytes:
    """What is asked by HTTPS."""
    hosts = [
        _virtual_host(host, list(_proxied(site, host))) for site in routing.sites for host in secure_hosts(site, listen)
    ]
    return _configuration(HTTPS, hosts, listen.https_port)


def _peer_routes(routing: Routing) -> bytes:
    """What other nodes' routers ask: only for endpoints of this node, and what they say of the client stays."""
    hosts = [
        _virtual_host(host, list(_proxied(site, host, local_only=True)))
        for site in routing.sites
        for host in sorted(site.hosts)
    ]
    configuration = {"name": PEERS, "virtual_hosts": hosts, "request_headers_to_remove": list(_ENVOYS), **_COMMON}
    return response(ROUTES, [configuration])


_COMMON: Final[Message] = {"ignore_port_in_host_matching": True}


def _configuration(name: str, hosts: list[Message], port: int) -> bytes:
    """With what services are told of the request as it came: never what the client itself claims (``X-Forwarded-Proto``
    is Envoy's own doing, by ``use_remote_address``)."""
    said = {
        "x-forwarded-for": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "x-forwarded-host": "%REQ(:AUTHORITY)%",
        "x-forwarded-port": str(port),
    }
    configuration = {
        "name": name,
        "virtual_hosts": hosts,
        "request_headers_to_remove": [*_UNTRUSTED, *_ENVOYS],
        "request_headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in said.items()
        ],
        **_COMMON,
    }
    return response(ROUTES, [configuration])


def _virtual_host(host: str, routes: list[Message]) -> Message:
    return {"name": host, "domains": [host], "routes": routes, "retry_policy": _retry(_UNSENT)}


def _challenges(site: Site, host: str) -> Iterator[Message]:
    """Answers to an ACME server (RFC 8555, section 8.3)."""
    for token, authorization in sorted(site.challenges.get(host, ())):
        yield {
            "match": {"path": CHALLENGES + token},
            "direct_response": {"status": 200, "body": {"inline_string": authorization}},
        }


def _redirects(host: str, port: int) -> Iterator[Message]:
    """To HTTPS: 301, which everything knows, where the method cannot be lost by it, and 308 elsewhere."""
    target: Message = {"https_redirect": True, "host_redirect": host}
    if port != _HTTPS_PORT:
        target["port_redirect"] = port
    yield {"match": {"prefix": "/", "headers": [_SAFE]}, "redirect": target}
    yield {"match": {"prefix": "/"}, "redirect": {**target, "response_code": "PERMANENT_REDIRECT"}}


def _proxied(site: Site, host: str, *, local_only: bool = False) -> Iterator[Message]:
    """The routes of a host, the longest prefix first."""
    for prefix, route in sorted(_by_prefix(site, host).items(), key=lambda item: (-len(item[0]), item[0])):
        path = {"prefix": "/"} if prefix == "/" else {"path_separated_prefix": prefix}
        to: Message = {"cluster": cluster_name(site.env, route.service, route.port), "timeout": "0s"}
        if local_only:
            to["metadata_match"] = LOCAL_ONLY
        yield {"match": {**path, "headers": [_WEBSOCKET]}, "route": {**to, "idle_timeout": _WEBSOCKET_IDLE}}
        yield {"match": {**path, "headers": [_SAFE]}, "route": {**to, "retry_policy": _retry(_UNANSWERED)}}
        yield {"match": path, "route": to}


def _by_prefix(site: Site, host: str) -> dict[str, Route]:
    """Prefixes are of whole path elements and a slash at the end makes no difference, as with Kubernetes' ``Prefix``.

    Of two that are the same then, the one without the slash counts.
    """
    found: dict[str, Route] = {}
    for route in sorted(site.routes, key=lambda route: route.prefix):
        if route.host == host:
            found.setdefault(route.prefix.rstrip("/") or "/", route)
    return found


def _retry(on: str) -> Message:
    """Once, on another endpoint if there is one, and of another priority: another node, if nobody else is here."""
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
