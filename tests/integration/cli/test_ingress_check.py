"""``ingress check`` and ``ingress show`` with real names, listeners and etcd; the test writes the agents' records."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import IngressStatus
from devopsellence.api.v1.workload_pb2 import Ingress
from tests.integration.cli.ingress_records import ingress, key_of, released, serving, write_agent_records
from tests.integration.cli.secret_operator import Operator
from tests.support.certificates import DAY, make_certificate
from tests.support.cli import REF
from tests.support.name_server import NameServer
from tests.support.ports import free_ports
from tests.support.router import Router
from tests.support.until import until

HOST = "app.example.com"
ADDRESSES = {"n1": "127.0.0.11", "n2": "127.0.0.12"}
ROOT = make_certificate("Test Authority", ca=True)
LEAF = make_certificate("app", [HOST], by=ROOT)


class IngressSetup:
    """Two nodes with an ingress, and a name server."""

    def __init__(self, operator: Operator, names: NameServer, routers: dict[str, Router], tmp_path: Path) -> None:
        self.operator = operator
        self.names = names
        self.routers = routers
        self.folder = tmp_path
        names.names[HOST] = list(ADDRESSES.values())
        operator.environ["DEVOPSELLENCE_DNS"] = names.address
        for node, address in ADDRESSES.items():
            operator.ok("node", "register", node, "--address", address)
            self.write_agent_records(node)

    def write_agent_records(self, node: str, *, https: bool = True) -> None:
        router = self.routers[node]
        status = serving(router.http_port, router.https_port if https else 0)
        write_agent_records(self.operator, node, status, uid=self.operator.uid(node))

    def release(self, ingress_config: Ingress) -> None:
        released(self.operator, ingress_config, list(ADDRESSES))

    def install(self) -> None:
        """The certificate, in etcd and on the nodes; trusted here."""
        (self.folder / "root.pem").write_bytes(ROOT.pem)
        (self.folder / "chain.pem").write_bytes(LEAF.pem + ROOT.pem)
        (self.folder / "key.pem").write_bytes(LEAF.key_pem())
        self.operator.environ["SSL_CERT_FILE"] = str(self.folder / "root.pem")
        files = ["--cert-file", str(self.folder / "chain.pem"), "--key-file", str(self.folder / "key.pem")]
        self.operator.ok("ingress", "cert", "install", *files, "--host", HOST)
        for router in self.routers.values():
            router.serve(HOST, LEAF, ROOT)
            router.redirect = True

    def check(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Run ``ingress check``; return the exit code and all findings that are not ok."""
        result = self.operator.run("ingress", "check", "-o", "json", *arguments)
        last = json.loads(result.stdout.splitlines()[-1])
        findings = last["checks"] if last["ok"] else last["error"]["findings"]
        return result.exit_code, [finding for finding in findings if finding["severity"] != "ok"]

    def codes(self) -> list[tuple[str, str]]:
        return [(finding["severity"], finding["code"]) for finding in self.check()[1]]


@pytest.fixture
def bed(ann: Operator, tmp_path: Path) -> Iterator[IngressSetup]:
    with ExitStack() as stack:
        names = stack.enter_context(NameServer())
        routers = {node: stack.enter_context(Router(address, tmp_path)) for node, address in ADDRESSES.items()}
        yield IngressSetup(ann, names, routers, tmp_path)


MANUAL = ingress(HOST, mode=Ingress.MANUAL, redirect=True)


def test_ingress_check_passes_over_https(bed: IngressSetup) -> None:
    bed.release(MANUAL)
    bed.install()
    assert bed.check() == (0, [])
    text = bed.operator.ok("ingress", "check")
    assert f"ok    DNS of {HOST}: points to 127.0.0.11, 127.0.0.12" in text
    assert f"ok    HTTPS of {HOST}: serves the certificate issued by Test Authority (n1, n2)" in text
    assert f"ok    answer of https://{HOST}/: status 200 (n1, n2)" in text
    assert f"ok    redirect of http://{HOST}/: status 308, to HTTPS (n1, n2)" in text
    assert text.splitlines()[-1] == f"Ingress of {REF}: 9 passed"
    # Each node was asked, by its own address, for the host.
    for router in bed.routers.values():
        assert f"https://{HOST}:{router.https_port}/" in router.paths


def test_ingress_check_passes_over_plain_http(bed: IngressSetup) -> None:
    bed.release(ingress(HOST, path="/shop"))
    assert bed.check() == (0, [])
    assert bed.routers["n1"].paths == [f"http://{HOST}:{bed.routers['n1'].http_port}/shop"]


def test_resolver_flag_selects_name_server(bed: IngressSetup) -> None:
    bed.release(ingress(HOST))
    bed.operator.environ["DEVOPSELLENCE_DNS"] = "127.0.0.1:1"
    assert bed.check("--resolver", bed.names.address) == (0, [])
    error = bed.operator.error("ingress", "check", "--resolver", "dns.example.com")
    assert (error["code"], error["exit_code"]) == ("invalid_address", 2)


def test_ingress_check_resolves_all_kinds_of_names(bed: IngressSetup) -> None:
    bed.names.names |= {
        "alias.example.com": [HOST],
        "one.example.com": ["127.0.0.11"],
        "elsewhere.example.com": ["127.0.0.99"],
        "six.example.com": ["fd00::9"],
        "empty.example.com": [],
        "silent.example.com": [],
    }
    bed.names.broken.add("silent.example.com")
    bed.release(ingress(*bed.names.names, "gone.example.com", "127.0.0.11", "shop.localhost"))
    code, findings = bed.check()
    by_subject = {finding["message"].partition(":")[0]: (finding["severity"], finding["code"]) for finding in findings}
    assert code == 1
    assert by_subject == {
        "DNS of one.example.com": ("warning", "ingress_dns_incomplete"),
        "DNS of elsewhere.example.com": ("error", "ingress_dns_elsewhere"),
        "DNS of six.example.com": ("error", "ingress_dns_elsewhere"),
        "DNS of empty.example.com": ("error", "ingress_dns_missing"),
        "DNS of silent.example.com": ("error", "ingress_dns_silent"),
        "DNS of gone.example.com": ("error", "ingress_dns_missing"),
        "DNS of 127.0.0.11": ("warning", "ingress_dns_incomplete"),
        "DNS of shop.localhost": ("error", "ingress_dns_elsewhere"),
    }
    gone = next(finding for finding in findings if "gone" in finding["message"])
    assert gone["next_actions"][0]["command"] == "gone.example.com  A/AAAA  127.0.0.11, 127.0.0.12"


def test_ingress_check_accepts_node_without_ip_address(bed: IngressSetup) -> None:
    bed.names.names["n3.example.net"] = ["127.0.0.11"]
    bed.operator.ok("node", "register", "n3", "--address", "n3.example.net")
    bed.operator.ok("node", "register", "n4")
    bed.operator.ok("node", "register", "n5")
    port = bed.routers["n1"].http_port
    write_agent_records(bed.operator, "n3", serving(port), uid=bed.operator.uid("n3"))
    write_agent_records(bed.operator, "n4", serving(port), uid=bed.operator.uid("n4"), api="127.0.0.11:7443")
    write_agent_records(bed.operator, "n5", serving(port), uid=bed.operator.uid("n5"))
    released(bed.operator, ingress(HOST), ["n1", "n4", "n5"])
    code, findings = bed.check()
    assert code == 0
    assert {finding["code"] for finding in findings} == {"node_without_address", "ingress_dns_elsewhere"}
    released(bed.operator, ingress(HOST), ["n1", "n2", "n3"])
    assert [code for _, code in bed.codes()] == []


@pytest.mark.parametrize("listens", [True, False], ids=["said", "not reached"])
def test_ingress_check_names_node_not_serving_with_reason(bed: IngressSetup, listens: bool) -> None:
    bed.release(ingress(HOST))
    if listens:
        failed = IngressStatus(phase=IngressStatus.FAILED, reason="port 80 is taken by nginx (pid 7)")
        write_agent_records(bed.operator, "n2", failed, uid=bed.operator.uid("n2"))
    else:
        write_agent_records(bed.operator, "n2", serving(free_ports(1)[0]), uid=bed.operator.uid("n2"))
    code, (finding,) = bed.check()
    assert (code, finding["severity"]) == (1, "error")
    assert finding["code"] == ("ingress_not_served" if listens else "ingress_port_closed")
    assert ("port 80 is taken by nginx (pid 7)" if listens else "connection refused") in finding["message"]


def test_ingress_check_reports_missing_expired_and_untrusted_certificates(bed: IngressSetup) -> None:
    bed.release(MANUAL)
    assert bed.codes() == [("error", "ingress_certificate_missing")]
    bed.install()
    del bed.operator.environ["SSL_CERT_FILE"]
    assert bed.codes() == [("warning", "ingress_certificate_untrusted")]
    bed.routers["n1"].serve(HOST, make_certificate("app", [HOST], by=ROOT, ends=DAY), ROOT)
    bed.routers["n2"].serve(HOST, make_certificate("app", ["other.example.com"], by=ROOT), ROOT)
    assert bed.codes() == [("error", "ingress_certificate_other"), ("error", "ingress_certificate_other")]


@pytest.mark.parametrize(("status", "severity"), [(503, "error"), (404, "warning"), (401, "")])
def test_app_response_is_reported(bed: IngressSetup, status: int, severity: str) -> None:
    bed.release(ingress(HOST))
    bed.routers["n2"].status = status
    code, findings = bed.check()
    assert code == (1 if severity == "error" else 0)
    assert [finding["severity"] for finding in findings] == ([severity] if severity else [])
    assert all(f"status {status}" in finding["message"] and "(n2)" in finding["message"] for finding in findings)


def test_ingress_check_reports_missing_redirect(bed: IngressSetup) -> None:
    bed.release(MANUAL)
    bed.install()
    bed.routers["n1"].redirect = False
    assert bed.codes() == [("error", "ingress_redirect")]


def test_ingress_check_wait_reports_changes_until_all_pass(bed: IngressSetup) -> None:
    bed.release(ingress(HOST))
    del bed.names.names[HOST]
    bed.routers["n2"].status = 503

    def mend() -> None:
        until("it has been looked at", lambda: bed.names.asked.count(HOST) >= 2)
        bed.names.names[HOST] = list(ADDRESSES.values())
        bed.routers["n2"].status = 200

    thread = threading.Thread(target=mend)
    thread.start()
    result = bed.operator.run("ingress", "check", "--wait", "1m", "-o", "json")
    thread.join()
    assert result.exit_code == 0, result.output
    *progress, last = [json.loads(line) for line in result.stdout.splitlines()]
    checks = [(event["check"]["name"], event["check"]["severity"]) for event in progress]
    assert checks[:2] == [(f"DNS of {HOST}", "error"), (f"answer of http://{HOST}/", "error")]
    assert (f"DNS of {HOST}", "ok") in checks
    assert all(check["severity"] == "ok" for check in last["checks"])


def test_ingress_check_wait_ends_with_failures(bed: IngressSetup) -> None:
    bed.release(ingress(HOST))
    del bed.names.names[HOST]
    assert bed.operator.error("ingress", "check", "--wait", "1s")["code"] == "ingress_unwell"
    assert bed.operator.run("ingress", "check", "--wait", "soon").exit_code == 2


def test_ingress_check_without_ingress_or_serving_node(bed: IngressSetup) -> None:
    released(bed.operator, None, ["n1"])
    for command in ("check", "show"):
        error = bed.operator.error("ingress", command)
        assert error["code"] == "ingress_none"
        assert error["findings"][0]["next_actions"][0]["command"].startswith("devopsellence ingress set --host")
    released(bed.operator, ingress(HOST), [])
    assert ("error", "ingress_nowhere") in bed.codes()


def test_node_list_and_doctor_report_ingress_problems(bed: IngressSetup) -> None:
    bed.release(ingress(HOST, mode=Ingress.MANUAL))
    failed = IngressStatus(phase=IngressStatus.FAILED, reason="port 80 is taken by nginx (pid 7)")
    write_agent_records(bed.operator, "n2", failed, uid=bed.operator.uid("n2"))
    first, second = bed.operator.json("node", "list")["nodes"]
    assert (first["note"], second["note"]) == ("", f"ingress of {REF}: port 80 is taken by nginx (pid 7)")
    by_subject = {
        (finding["severity"], finding["code"])
        for finding in bed.operator.error("doctor")["findings"]
        if "ingress" in finding["message"]
    }
    assert by_subject == {("error", "ingress_not_served"), ("warning", "ingress_certificate_missing")}
    bed.write_agent_records("n2")
    bed.install()
    assert all(node["note"] == "" for node in bed.operator.json("node", "list")["nodes"])
    lines = bed.operator.run("doctor").stdout.splitlines()
    assert f"ok    ingress {REF}: 1 host on 2 nodes" in lines


def test_ingress_show_and_status_report_routes_and_problems(bed: IngressSetup) -> None:
    bed.release(ingress(HOST, mode=Ingress.MANUAL))
    shown = bed.operator.json("ingress", "show")["ingress"]
    assert (shown["hosts"][0]["certificate"], [node["node"] for node in shown["nodes"]]) == (None, ["n1", "n2"])
    assert shown["rules"][0]["target"] == {"service": "web", "port": "http"}
    text = bed.operator.ok("ingress", "show")
    assert "no certificate is installed, so plain HTTP" in text
    failed = IngressStatus(phase=IngressStatus.FAILED, reason="port 80 is taken by nginx (pid 7)")
    write_agent_records(bed.operator, "n2", failed, uid=bed.operator.uid("n2"))
    assert "Ingress: n2: port 80 is taken by nginx (pid 7)" in bed.operator.ok("status")
    document = bed.operator.json("status")["ingress"]
    assert [problem["code"] for problem in document["problems"]] == [
        "ingress_not_served",
        "ingress_certificate_missing",
    ]
    bed.install()
    port = bed.routers["n1"].https_port
    assert f"Ingress      https://{HOST}:{port}/" in bed.operator.ok("status")
    bed.operator.write(key_of("x.example.com"), b"{")
    assert "x.example.com is not a readable Certificate" in bed.operator.run("ingress", "show").stderr
