"""Envoy clusters, one per backend, with the endpoints of a backend in a separate file.

A cutover replaces the endpoints file and nothing else. A cluster names neither endpoints nor peers, so that the cluster
is unchanged while endpoints come and go: Envoy recreates a changed cluster and counts active requests from zero.

Endpoints of this node have priority 0, peers (routers of other nodes) priority 1 (Envoy, "Priority levels"): peers get
requests while no endpoint of this node is healthy. Traffic to peers uses TLS with the routers' own certificates.
Requests from a peer go to endpoints of this node only (Envoy, "Load Balancer Subsets"), so that no request travels in a
circle.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from devopsellence.nodeagent.envoy.model import Backend, Endpoint, ListenerConfig, RouterPeer, RoutingConfig
from devopsellence.nodeagent.envoy.resources import Message, extension, file_name, response, source
from devopsellence.nodeagent.envoy.tls import PEER, peer_validation, secret_source
from devopsellence.store.keys import EnvironmentRef

CLUSTER: Final = "envoy.config.cluster.v3.Cluster"
ASSIGNMENT: Final = "envoy.config.endpoint.v3.ClusterLoadAssignment"
#: Namespace of this project's metadata on clusters and endpoints.
METADATA: Final = "devopsellence"
#: ``metadata_match`` of a route that uses endpoints of this node only.
LOCAL_ONLY: Final[Message] = {"filter_metadata": {"envoy.lb": {"where": "local"}}}

_CONNECT_SECONDS: Final = 1
#: Shorter than the idle timeouts of the usual application servers (gunicorn 2 s, node and uvicorn 5 s): no request is
#: sent on a connection that the server is about to close.
_IDLE_SECONDS: Final = 1.5
_BUFFER_BYTES: Final = 64 << 10
_MANY: Final = 20_000
#: A single healthy endpoint gets all requests. Envoy's default of 140 % would send a part of the requests to other
#: nodes whenever a second endpoint is draining.
_NEVER_SPILL: Final = 1_000_000


def cluster_name(ref: EnvironmentRef, service: str, port: str) -> str:
    """Return the name of a backend's cluster."""
    return f"{ref}/{service}/{port}"


def endpoints_path(ref: EnvironmentRef, service: str, port: str) -> str:
    """Return the path of the file with a backend's endpoints."""
    return f"eds/{file_name(service, cluster_name(ref, service, port))}"


def cluster(ref: EnvironmentRef, backend: Backend, listen: ListenerConfig, folder: str) -> Message:
    """Return a backend's cluster."""
    message: Message = {
        "name": cluster_name(ref, backend.service, backend.port),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": source(folder, endpoints_path(ref, backend.service, backend.port))},
        "metadata": {
            "filter_metadata": {
                METADATA: {"environment": str(ref), "service": backend.service, "port": backend.port},
            }
        },
        "lb_policy": "ROUND_ROBIN",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "connect_timeout": f"{_CONNECT_SECONDS}s",
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 30, "keepalive_interval": 5, "keepalive_probes": 3}
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{_IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _MANY,
                    "max_pending_requests": _MANY,
                    "max_requests": _MANY,
                    "retry_budget": {"budget_percent": {"value": 50}, "min_retry_concurrency": 128},
                }
            ]
        },
        "outlier_detection": _outliers(),
    }
    if listen.peer_tls is not None:
        message["transport_socket_matches"] = [_peer_socket(folder)]
        message["lb_subset_config"] = {
            "fallback_policy": "ANY_ENDPOINT",
            "subset_selectors": [{"keys": ["where"], "fallback_policy": "NO_FALLBACK"}],
        }
    return message


def endpoints_file(config: RoutingConfig, backend: Backend, listen: ListenerConfig) -> bytes:
    """Return the file with a backend's endpoints and, if this node has peers, their routers."""
    groups = [{"priority": 0, "lb_endpoints": [_local(endpoint) for endpoint in sorted(backend.endpoints)]}]
    if listen.peer_tls is not None and (
        peers := [_peer(peer) for peer in sorted(config.peers) if _is_ip(peer.address)]
    ):
        groups.append({"priority": 1, "lb_endpoints": peers})
    assignment = {
        "cluster_name": cluster_name(config.ref, backend.service, backend.port),
        "policy": {"overprovisioning_factor": _NEVER_SPILL},
        "endpoints": groups,
    }
    return response(ASSIGNMENT, [assignment])


def _local(endpoint: Endpoint) -> Message:
    return {
        "endpoint": {"address": _address(endpoint.address, endpoint.port)},
        "health_status": "DRAINING" if endpoint.draining else "HEALTHY",
        "metadata": {
            "filter_metadata": {METADATA: {"container": endpoint.container}, "envoy.lb": {"where": "local"}},
        },
    }


def _peer(peer: RouterPeer) -> Message:
    return {
        "endpoint": {"address": _address(peer.address, peer.port), "hostname": peer.server_name},
        "health_status": "HEALTHY",
        "metadata": {
            "filter_metadata": {
                METADATA: {"node": peer.node},
                "envoy.lb": {"where": "peer"},
                "envoy.transport_socket_match": {"where": "peer"},
            }
        },
    }


def _address(address: str, port: int) -> Message:
    return {"socket_address": {"address": address, "port_value": port}}


def _is_ip(address: str) -> bool:
    """EDS takes IP addresses only and rejects a whole file for a single name; configurations on disk may have names."""
    try:
        ip_address(address)
    except ValueError:
        return False
    return True


def _peer_socket(folder: str) -> Message:
    """Return the TLS settings for peers; the peer's certificate must carry the endpoint's ``hostname``."""
    tls = {
        "auto_host_sni": True,
        "auto_sni_san_validation": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [secret_source(PEER, folder)],
            "validation_context_sds_secret_config": peer_validation(folder),
        },
    }
    kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return {
        "name": "peer",
        "match": {"where": "peer"},
        "transport_socket": extension("envoy.transport_sockets.tls", kind, tls),
    }


def _outliers() -> Message:
    """Eject endpoints that cannot be reached for a while; HTTP statuses of applications do not count.

    At most half of a backend's endpoints are ejected: a single endpoint is always tried.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "max_ejection_percent": 50,
        "interval": "1s",
        "base_ejection_time": "2s",
        "max_ejection_time": "10s",
    }
