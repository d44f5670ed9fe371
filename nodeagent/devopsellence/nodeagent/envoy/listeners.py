"""Envoy listeners: ports, TLS, connection limits, request handling and access log.

Limits follow Envoy's guide "Configuring Envoy as an edge proxy", with a few exceptions for the needs of applications;
a comment marks every exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from devopsellence.nodeagent.envoy.model import ListenerConfig, NodeRouting
from devopsellence.nodeagent.envoy.resources import Message, extension, source
from devopsellence.nodeagent.envoy.routes import HTTP, HTTPS, PEERS, routes_path
from devopsellence.nodeagent.envoy.tls import (
    PEER,
    certificate_and_key,
    https_hosts,
    peer_validation,
    router_names,
    secret_source,
)

LISTENER: Final = "envoy.config.listener.v3.Listener"

_HTTP: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_DOWNSTREAM_TLS: Final = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_BUFFER_BYTES: Final = 64 << 10
_BACKLOG: Final = 4096
#: Time for a connection to show what it wants: the first bytes of a request, or a complete TLS handshake.
_FIRST_BYTES: Final = "10s"
_INSPECTORS: Final = "envoy.extensions.filters.listener"
#: Envoy has no time limit for the first byte of a plain request; this filter waits for it.
_HTTP_INSPECTOR: Final = extension(
    "envoy.filters.listener.http_inspector", f"{_INSPECTORS}.http_inspector.v3.HttpInspector"
)
#: Its buffer grows as needed; 16 KiB, the default, would be most of what a silent connection takes.
_TLS_INSPECTOR: Final = extension(
    "envoy.filters.listener.tls_inspector",
    f"{_INSPECTORS}.tls_inspector.v3.TlsInspector",
    {"initial_read_buffer_size": 1024},
)
#: Addresses of internal clients, which Envoy would trust: an address that no client has. An empty list would mean all
#: private addresses.
_NO_INTERNAL_CLIENTS: Final[Message] = {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]}
#: Envoy takes some of its own headers from clients, and passes others on to services.
_WITHOUT_ENVOY_HEADERS: Final = extension(
    "envoy.http.early_header_mutation.header_mutation",
    "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
    {"mutations": [{"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}]},
)
_UNAVAILABLE: Final = "503: nothing answers for this address at the moment\n"


def listeners(routing: NodeRouting, listen: ListenerConfig, folder: str) -> list[Message]:
    """Return all listeners with a port and something to serve. The routes of a listener have the listener's name."""
    messages: list[Message] = []
    if listen.http_port:
        messages.append(
            _listener(
                HTTP, listen.http_port, listen, [{"name": HTTP, "filters": [_requests(HTTP, folder)]}], _HTTP_INSPECTOR
            )
        )
    if chains := list(_secure_chains(routing, listen, folder)):
        messages.append(_listener(HTTPS, listen.https_port, listen, chains, _TLS_INSPECTOR))
    if listen.peer_port and listen.peer_tls is not None and routing.configs:
        chain: Message = {
            "name": PEERS,
            "filters": [_requests(PEERS, folder)],
            "transport_socket": _peer_socket(folder),
            "transport_socket_connect_timeout": _FIRST_BYTES,
        }
        messages.append(_listener(PEERS, listen.peer_port, listen, [chain]))
    return messages


def _listener(
    name: str, port: int, listen: ListenerConfig, chains: list[Message], inspector: Message | None = None
) -> Message:
    """Return a listener. A connection that gives its ``inspector`` nothing to look at in time is closed.

    The peer listener needs none: its connections begin with TLS, whose handshake has a time limit of its own.
    """
    address = {"address": "::", "ipv4_compat": True} if listen.ipv6 else {"address": "0.0.0.0"}  # noqa: S104
    message: Message = {
        "name": name,
        "address": {"socket_address": {**address, "port_value": port}},
        "filter_chains": chains,
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "tcp_backlog_size": _BACKLOG,
    }
    if inspector is not None:
        message["listener_filters"] = [inspector]
        message["listener_filters_timeout"] = _FIRST_BYTES
    return message


def _secure_chains(routing: NodeRouting, listen: ListenerConfig, folder: str) -> Iterator[Message]:
    """Yield a filter chain for each host with HTTPS.

    A new certificate drains the connections of one host only (Envoy, "Filter chain only update").
    """
    certificates = {
        host: config.certificates[host] for config in routing.configs for host in https_hosts(config, listen)
    }
    for host, certificate in sorted(certificates.items()):
        tls = {
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [certificate_and_key(certificate)],
            }
        }
        yield {
            "name": host,
            "filter_chain_match": {"server_names": [host]},
            "filters": [_requests(HTTPS, folder)],
            "transport_socket": extension("envoy.transport_sockets.tls", _DOWNSTREAM_TLS, tls),
            "transport_socket_connect_timeout": _FIRST_BYTES,
        }


def _peer_socket(folder: str) -> Message:
    """Return the TLS settings of the peer listener: client certificates of routers only."""
    tls = {
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [secret_source(PEER, folder)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": router_names()},
                "validation_context_sds_secret_config": peer_validation(folder),
            },
        },
    }
    return extension("envoy.transport_sockets.tls", _DOWNSTREAM_TLS, tls)


def _requests(name: str, folder: str) -> Message:
    """Return the HTTP connection manager of a listener.

    Forwarding headers of outside clients are replaced; the routes decide about those of peers.
    """
    outside = name != PEERS
    kind = "envoy.extensions.filters.http.router.v3.Router"
    manager: Message = {
        "stat_prefix": name,
        "codec_type": "AUTO",
        "rds": {"route_config_name": name, "config_source": source(folder, routes_path(name))},
        "http_filters": [extension("envoy.filters.http.router", kind, {"suppress_envoy_headers": True})],
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "early_header_mutation_extensions": [_WITHOUT_ENVOY_HEADERS],
        "use_remote_address": outside,
        "internal_address_config": _NO_INTERNAL_CLIENTS,
        "preserve_external_request_id": not outside,
        # For the routes of peers, which remove the header again; clients' values never pass.
        "forward_client_cert_details": "SANITIZE" if outside else "SANITIZE_SET",
        "set_current_client_cert_details": {"dns": not outside},
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
            # Many servers read X_Forwarded_For as X-Forwarded-For, so the header must not pass. The guide would reject
            # the whole request.
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
    """Return the response body for Envoy's own 503: no endpoint is available."""
    at = {"comparison": {"op": "EQ", "value": {"default_value": 503, "runtime_key": "devopsellence.none"}}}
    return {"filter": {"status_code_filter": at}, "body": {"inline_string": _UNAVAILABLE}}


def _access_log(name: str) -> Message:
    """Return the access log: JSON lines on stdout, without the query, which may hold secrets."""
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
    if name == PEERS:
        # The client's address is what this node says.
        fields["peer"] = "%DOWNSTREAM_PEER_DNS_SAN%"
    kind = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
    return extension("envoy.access_loggers.stdout", kind, {"log_format": {"json_format": fields}})
