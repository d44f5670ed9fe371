"""Where Envoy listens, and how it treats connections and requests there.

Limits follow Envoy's guide "Configuring Envoy as an edge proxy", except where an application in a container needs it
otherwise; each of those is said at its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from devopsellence.nodeagent.envoy.model import Listen, Routing
from devopsellence.nodeagent.envoy.resources import Message, extension, source
from devopsellence.nodeagent.envoy.routes import HTTP, HTTPS, PEERS, routes_path
from devopsellence.nodeagent.envoy.tls import (
    PEER,
    node_names,
    pair,
    peer_validation,
    secret_source,
    secure_hosts,
)

LISTENER: Final = "envoy.config.listener.v3.Listener"

_HTTP: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_DOWNSTREAM_TLS: Final = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_BUFFER_BYTES: Final = 64 << 10
_BACKLOG: Final = 4096
_HANDSHAKE: Final = "15s"
#: No client is of the house, whose word Envoy would take for how to treat a request; empty would be all private
#: addresses. Nobody sends from this one.
_NOBODY: Final[Message] = {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]}
_UNAVAILABLE: Final = "503: nothing answers for this address at the moment\n"


def listeners(routing: Routing, listen: Listen, folder: str) -> list[Message]:
    """All listeners: those that have a port and something to serve. Each has the routes of its name."""
    found: list[Message] = []
    if listen.http_port:
        found.append(_listener(HTTP, listen.http_port, listen, [{"name": HTTP, "filters": [_requests(HTTP, folder)]}]))
    if chains := list(_secure_chains(routing, listen, folder)):
        found.append(_listener(HTTPS, listen.https_port, listen, chains, inspect=True))
    if listen.peer_port and listen.peer_tls is not None and routing.sites:
        chain: Message = {
            "name": PEERS,
            "filters": [_requests(PEERS, folder)],
            "transport_socket": _peer_socket(folder),
            "transport_socket_connect_timeout": _HANDSHAKE,
        }
        found.append(_listener(PEERS, listen.peer_port, listen, [chain]))
    return found


def _listener(name: str, port: int, listen: Listen, chains: list[Message], *, inspect: bool = False) -> Message:
    address = {"address": "::", "ipv4_compat": True} if listen.ipv6 else {"address": "0.0.0.0"}  # noqa: S104
    found: Message = {
        "name": name,
        "address": {"socket_address": {**address, "port_value": port}},
        "filter_chains": chains,
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "tcp_backlog_size": _BACKLOG,
    }
    if inspect:
        kind = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
        found["listener_filters"] = [extension("envoy.filters.listener.tls_inspector", kind)]
        found["listener_filters_timeout"] = _HANDSHAKE
    return found


def _secure_chains(routing: Routing, listen: Listen, folder: str) -> Iterator[Message]:
    """One for each host: with another certificate for one only that one's connections are drained, and those of the
    others do not notice (Envoy, "Filter chain only update")."""
    found = {host: site.certificates[host] for site in routing.sites for host in secure_hosts(site, listen)}
    for host, certificate in sorted(found.items()):
        tls = {
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [pair(certificate)],
            }
        }
        yield {
            "name": host,
            "filter_chain_match": {"server_names": [host]},
            "filters": [_requests(HTTPS, folder)],
            "transport_socket": extension("envoy.transport_sockets.tls", _DOWNSTREAM_TLS, tls),
            "transport_socket_connect_timeout": _HANDSHAKE,
        }


def _peer_socket(folder: str) -> Message:
    """Only nodes are let in, by their certificates."""
    tls = {
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [secret_source(PEER, folder)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": node_names()},
                "validation_context_sds_secret_config": peer_validation(folder),
            },
        },
    }
    return extension("envoy.transport_sockets.tls", _DOWNSTREAM_TLS, tls)


def _requests(name: str, folder: str) -> Message:
    """How requests are treated. Where they come from outside, what they say of themselves is replaced; a peer's word
    for it is taken."""
    outside = name != PEERS
    kind = "envoy.extensions.filters.http.router.v3.Router"
    manager: Message = {
        "stat_prefix": name,
        "codec_type": "AUTO",
        "rds": {"route_config_name": name, "config_source": source(folder, routes_path(name))},
        "http_filters": [extension("envoy.filters.http.router", kind, {"suppress_envoy_headers": True})],
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "use_remote_address": outside,
        "internal_address_config": _NOBODY,
        "preserve_external_request_id": not outside,
        "always_set_request_id_in_response": True,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "strip_trailing_host_dot": True,
        "max_request_headers_kb": 60,
        "request_headers_timeout": "15s",
        "stream_idle_timeout": "300s",
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "max_headers_count": 100,
            # For many servers X_Forwarded_For is X-Forwarded-For, so it must not pass. The guide would refuse the
            # whole request.
            "headers_with_underscores_action": "DROP_HEADER",
        },
        "http_protocol_options": {"accept_http_10": True},
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 64 << 10,
            "initial_connection_window_size": 1 << 20,
            "allow_connect": True,
        },
        "local_reply_config": {"mappers": [_unavailable()]},
        "access_log": [_access_log(name)],
    }
    return extension("envoy.filters.network.http_connection_manager", _HTTP, manager)


def _unavailable() -> Message:
    """What a client reads when Envoy itself has to say that nothing answers."""
    at = {"comparison": {"op": "EQ", "value": {"default_value": 503, "runtime_key": "devopsellence.none"}}}
    return {"filter": {"status_code_filter": at}, "body": {"inline_string": _UNAVAILABLE}}


def _access_log(name: str) -> Message:
    """One JSON object a line on stdout. Without the query, which may carry what is nobody's business."""
    fields = {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
        "listener": name,
        "host": "%REQ(:AUTHORITY)%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ:ORIG_OR_PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "duration_ms": "%DURATION%",
        "upstream": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "environment": "%METADATA(CLUSTER:devopsellence:environment)%",
        "service": "%METADATA(CLUSTER:devopsellence:service)%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "user_agent": "%REQ(USER-AGENT)%",
    }
    kind = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
    return extension("envoy.access_loggers.stdout", kind, {"log_format": {"json_format": fields}})
