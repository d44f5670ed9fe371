"""Access to the local cluster: to the gateway for node and operator, to etcd for the controller."""

import shlex
import socket
import ssl
import subprocess

import pytest

from devopsellence.agent_identity import server_name
from tests.support.dev import Dev

GATEWAY = "gateway_port"


def test_etcdctl_reads_the_cluster_with_what_env_prints(up: Dev) -> None:
    script = f'eval "$({shlex.join(up.command("env"))})"; exec etcdctl get --prefix /devopsellence/v1/ --keys-only'
    done = subprocess.run(["/bin/sh", "-ec", script], env=up.environ, capture_output=True, text=True, check=True)
    keys = done.stdout.split()
    assert "/devopsellence/v1/nodes/local" in keys
    assert "/devopsellence/v1/heartbeats/local" in keys


def test_node_certificate_accesses_own_keys_only(up: Dev) -> None:
    up.etcdctl("put", "/devopsellence/v1/assignments/other/o/p/e", "secret")
    up.etcdctl("put", "/devopsellence/v1/nodes/local2", "secret")
    assert "local" in up.etcdctl("get", "/devopsellence/v1/nodes/local", certificate="node", port=GATEWAY).stdout
    for what in (
        "/devopsellence/v1/assignments/other/ --prefix",
        "/devopsellence/v1/assignments/ --prefix",
        "/devopsellence/v1/nodes/local2",
        "/devopsellence/v1/releases/ --prefix",
        "/ --prefix",
    ):
        refused = up.etcdctl("get", *what.split(), certificate="node", port=GATEWAY, check=False)
        assert refused.returncode != 0, what
        assert "permission denied" in refused.stderr
        assert "secret" not in refused.stdout
    for key in ("/devopsellence/v1/nodes/local", "/devopsellence/v1/assignments/local/o/p/e"):
        assert "permission denied" in up.etcdctl("put", key, "x", certificate="node", port=GATEWAY, check=False).stderr
    up.etcdctl("del", "/devopsellence/v1/assignments/other/o/p/e")
    up.etcdctl("del", "/devopsellence/v1/nodes/local2")


def test_etcd_member_certificate_gives_no_access(up: Dev) -> None:
    for port in (GATEWAY, "client_port"):
        done = up.etcdctl("get", "/devopsellence/v1/nodes/local", certificate="etcd", port=port, check=False)
        assert (done.returncode != 0, done.stdout) == (True, "")


@pytest.mark.parametrize(
    ("port", "certificate", "opens"),
    [
        ("client_port", "controller", True),
        ("client_port", "operator", True),
        ("client_port", "node", False),
        ("client_port", "etcd", False),
        ("client_port", "", False),
        ("peer_port", "etcd", True),
        ("peer_port", "node", False),
        ("peer_port", "operator", False),
        ("peer_port", "controller", False),
        ("peer_port", "", False),
    ],
)
def test_ports_accept_only_the_clusters_certificates(up: Dev, port: str, certificate: str, opens: bool) -> None:
    context = ssl.create_default_context(cafile=str(up.layout.certificate("ca")))
    if certificate:
        context.load_cert_chain(up.layout.certificate(certificate), up.layout.key(certificate))
    address = ("127.0.0.1", up.saved_state()[port])
    try:
        with (
            socket.create_connection(address, 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(b"GET /version HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            answer = tls.recv(64)
    except OSError:
        answer = b""
    assert answer.startswith(b"HTTP/1.1 200") is opens


@pytest.mark.parametrize(("certificate", "opens"), [("operator", True), ("", False)])
def test_agent_api_answers_callers_with_certificate(up: Dev, certificate: str, opens: bool) -> None:
    context = ssl.create_default_context(cafile=str(up.layout.certificate("ca")))
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(up.layout.certificate(certificate), up.layout.key(certificate))
    host, _, port = up.document("status")["agent"]["endpoint"].rpartition(":")
    answer = b""
    try:
        with (
            socket.create_connection((host, int(port)), 5) as plain,
            context.wrap_socket(plain, server_hostname=server_name(up.saved_state()["node_uid"])) as tls,
        ):
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            answer = tls.recv(64)
    except OSError:
        pass
    # A frame of HTTP/2's settings, or nothing at all.
    assert answer[3:4] == (b"\x04" if opens else b"")
