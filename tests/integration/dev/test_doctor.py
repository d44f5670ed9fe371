"""``doctor`` of a cluster with certificates: diagnosis by the agents, and agents without an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.support.dev import Dev
from tests.support.ports import free_ports

PREFIX = "/devopsellence/v1"


def doctor(dev: Dev) -> dict[str, dict[str, Any]]:
    """The checks by name."""
    command = [sys.executable, "-m", "devopsellence.cli", "doctor", "-o", "json"]
    done = subprocess.run(command, env=dev.environ, capture_output=True, text=True, timeout=60, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    if last["ok"]:
        return {check["name"]: check for check in last["checks"]}
    findings = last["error"]["findings"]
    return {finding["message"].partition(":")[0]: finding for finding in findings}


def put(dev: Dev, key: str, **fields: object) -> None:
    dev.etcdctl("put", f"{PREFIX}/{key}", json.dumps(fields))


def attach(dev: Dev, *nodes: str) -> None:
    names = {"organization": "o", "project": "p", "environment": "e"}
    put(dev, "environments/o/p/e", **names, nodes=list(nodes))


def test_doctor_diagnoses_attached_node(up: Dev) -> None:
    attach(up, "local")
    try:
        checks = doctor(up)
    finally:
        up.etcdctl("del", f"{PREFIX}/environments/o/p/e")
    assert checks["certificate"]["severity"] == checks["authority"]["severity"] == "ok"
    assert checks["agent local"]["severity"] == "ok", checks
    assert "responds at 127.0.0.1:" in checks["agent local"]["message"]
    assert checks["identity"]["severity"] == "ok"


def test_doctor_names_unreachable_or_foreign_agent(up: Dev) -> None:
    ours = up.document("status")["agent"]["endpoint"]
    (closed,) = free_ports(1)
    for name, address in (("gone", f"127.0.0.1:{closed}"), ("liar", ours), ("mute", "")):
        put(up, f"nodes/{name}", name=name, uid="u", labels=["web"])
        put(up, f"heartbeats/{name}", node=name, uid="u", api_address=address)
    attach(up, "gone", "liar", "mute")
    try:
        findings = doctor(up)
    finally:
        up.etcdctl("del", f"{PREFIX}/environments/o/p/e")
        for name in ("gone", "liar", "mute"):
            up.etcdctl("del", f"{PREFIX}/nodes/{name}")
            up.etcdctl("del", f"{PREFIX}/heartbeats/{name}")
    for name in ("gone", "liar", "mute"):
        assert findings[f"agent {name}"]["code"] == "agent_unreachable"
    assert f"at 127.0.0.1:{closed}: " in findings["agent gone"]["message"]
    assert "--api-listen" in findings["agent mute"]["message"]
    assert "agent local" not in findings
