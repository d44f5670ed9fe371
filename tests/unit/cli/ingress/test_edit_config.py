"""``ingress set``: edits of devopsellence.yml that keep the rest of the file."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from devopsellence import config
from devopsellence.cli.ingress.edit_config import IngressEdit, difference, edit_ingress, read, write
from devopsellence.cli.output import CliError
from devopsellence.config import ConfigError
from devopsellence.config.export import ingress_document

PATH = Path("/app/devopsellence.yml")
ANNOTATED = Path(__file__).parents[4] / "examples/annotated/devopsellence.yml"
SHOP = textwrap.dedent("""\
    # Our shop.
    schema_version: 1
    organization: acme
    project:   shop   # not shopping

    services:
        web:
            image: 'shop:1'
            ports: [ {name: http, port: 3000},
                     {name: metrics, port: 9394} ]
            healthcheck: {}
        job:
            image: "job:1"
            args:
            - --queues
            -   all

    # How it is rolled out.
    deploy:
        max_parallel: 1
    """)


TWO = textwrap.dedent("""\
    schema_version: 1
    organization: acme
    project: shop
    services:
      api:
        ports: [{name: http, port: 3000}]
        healthcheck: {}
      app:
        ports: [{name: http, port: 3000}]
        healthcheck: {}
      mail:
        ports: [{name: smtp, port: 25}, {name: imap, port: 143}]
    """)


def ingress(text: str, environment: str = "production") -> dict[str, Any]:
    document = config.parse(text, PATH).resolve(environment).ingress
    assert document is not None
    return ingress_document(document)


def added(before: str, after: str) -> list[str]:
    return [line[1:] for line in difference(before, after, "f").splitlines()[2:] if line.startswith("+")]


def dropped(before: str, after: str) -> list[str]:
    return [line[1:] for line in difference(before, after, "f").splitlines()[2:] if line.startswith("-")]


def test_first_ingress_keeps_the_rest_of_the_file() -> None:
    after = edit_ingress(SHOP, PATH, IngressEdit(hosts=("App.example.com",), email="ops@example.com"))
    assert dropped(SHOP, after) == []
    assert after.startswith(SHOP)
    document = ingress(after)
    assert document["hosts"] == ["app.example.com"]
    rule = {"match": {"host": "app.example.com", "path_prefix": "/"}, "target": {"service": "web", "port": "http"}}
    assert document["rules"] == [rule]
    assert document["tls"] == {"mode": "auto", "email": "ops@example.com"}


WHOLE = IngressEdit(
    hosts=("a.example.com", "b.example.com"),
    service="web",
    port="metrics",
    path="/m",
    tls="auto",
    email="ops@example.com",
    ca_directory_url="https://ca.example.com/dir",
    redirect_http=False,
    drain_timeout="1m",
)


def test_all_options_are_written_once() -> None:
    after = edit_ingress(SHOP, PATH, WHOLE)
    document = ingress(after)
    assert [rule["match"]["path_prefix"] for rule in document["rules"]] == ["/m", "/m"]
    assert (document["redirect_http"], document["drain_timeout"]) == (False, "1m")
    assert document["tls"] == {
        "mode": "auto",
        "email": "ops@example.com",
        "ca_directory_url": "https://ca.example.com/dir",
    }
    assert edit_ingress(after, PATH, WHOLE) == after


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        (IngressEdit(tls="off"), ["    mode: off"]),
        (IngressEdit(redirect_http=False), ["  redirect_http: false"]),
        (IngressEdit(drain_timeout="5m"), ["  drain_timeout: 5m"]),
        (IngressEdit(email="me@example.com"), ["    email: me@example.com"]),
        (IngressEdit(tls="auto", redirect_http=True, drain_timeout="30s"), []),
        (IngressEdit(hosts=("shop.example.com", "www.shop.example.com")), []),
    ],
    ids=["mode", "redirect", "drain", "email", "as it is", "the same hosts"],
)
def test_changed_value_changes_one_line(wanted: IngressEdit, lines: list[str]) -> None:
    if wanted.tls == "off":
        before = ANNOTATED.read_text().replace("  redirect_http: true\n", "  redirect_http: false\n")
    else:
        before = ANNOTATED.read_text()
    after = edit_ingress(before, PATH, wanted)
    assert added(before, after) == lines
    assert len(dropped(before, after)) == len(lines)


def test_comments_survive_a_changed_list() -> None:
    before = ANNOTATED.read_text()
    after = edit_ingress(before, PATH, IngressEdit(hosts=("shop.example.com", "api.example.com")))
    assert added(before, after) == ["    - api.example.com", "        host: api.example.com"]
    assert dropped(before, after) == ["    - www.shop.example.com", "        host: www.shop.example.com"]
    one = edit_ingress(before, PATH, IngressEdit(hosts=("shop.example.com",)))
    assert added(before, one) == []
    assert not [line for line in dropped(before, one) if line.lstrip().startswith("#")]
    assert ingress(one)["hosts"] == ["shop.example.com"]


def test_path_adds_a_rule_per_host() -> None:
    before = ANNOTATED.read_text()
    after = edit_ingress(before, PATH, IngressEdit(path="/metrics", port="metrics"))
    assert dropped(before, after) == []
    assert len(ingress(after)["rules"]) == 4
    again = edit_ingress(after, PATH, IngressEdit(path="/metrics", service="web", port="http"))
    assert added(after, again) == ["        port: http"] * 2


def test_overlay_gets_only_differences() -> None:
    before = ANNOTATED.read_text()
    after = edit_ingress(before, PATH, IngressEdit(email="staging@example.com"), "staging")
    assert dropped(before, after) == []
    assert added(before, after) == ["      tls:", "        email: staging@example.com"]
    assert ingress(after)["tls"]["email"] == "ops@example.com"
    new = edit_ingress(before, PATH, IngressEdit(hosts=("qa.example.com",), tls="manual", redirect_http=False), "qa")
    assert dropped(before, new) == []
    document = ingress(new, "qa")
    assert document["hosts"] == ["qa.example.com"]
    assert [rule["match"]["host"] for rule in document["rules"]] == ["qa.example.com"]
    assert document["tls"]["mode"] == "manual"
    assert ingress(new) == ingress(before)


def test_overlay_does_not_repeat_base_values() -> None:
    before = ANNOTATED.read_text()
    assert edit_ingress(before, PATH, IngressEdit(drain_timeout="30s", tls="auto"), "staging") == before


@pytest.mark.parametrize(
    ("wanted", "fact"),
    [
        (IngressEdit(hosts=("a.example.com:80",)), 'write "a.example.com"'),
        (IngressEdit(hosts=("a_b.example.com",)), "must not contain an underscore"),
        (IngressEdit(hosts=("a.example.com",), service="api"), '"api" not found in services'),
        (IngressEdit(hosts=("a.example.com",), service="job"), 'port "http" not found on service "job"'),
        (IngressEdit(hosts=("a.example.com",), port="grpc"), 'port "grpc" not found on service "web"'),
        (IngressEdit(hosts=("a.example.com",), path="api"), "must begin with /"),
        (IngressEdit(hosts=("a.example.com",), drain_timeout="soon"), "must be a duration such as 5s"),
        (IngressEdit(hosts=("a.example.com",), tls="off", redirect_http=True), "while ingress.tls.mode is off"),
    ],
    ids=["port", "underscore", "service", "worker", "port's name", "path", "time", "redirect"],
)
def test_edit_with_invalid_result_is_refused(wanted: IngressEdit, fact: str) -> None:
    with pytest.raises(ConfigError) as caught:
        edit_ingress(SHOP, PATH, wanted)
    assert fact in str(caught.value)


def test_ambiguous_target_must_be_given() -> None:
    with pytest.raises(CliError, match="--host is required"):
        edit_ingress(SHOP, PATH, IngressEdit(tls="off"))
    with pytest.raises(CliError, match="service mail has several ports: --port is required"):
        edit_ingress(TWO, PATH, IngressEdit(hosts=("a.example.com",), service="mail"))
    with pytest.raises(CliError, match="the service for the requests is not clear: --service is required"):
        edit_ingress(TWO, PATH, IngressEdit(hosts=("a.example.com",)))
    assert ingress(edit_ingress(TWO, PATH, IngressEdit(hosts=("a.example.com",), service="app")))["hosts"] == [
        "a.example.com"
    ]


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "services: {web: {}, web: {}}\n"], ids=range(4))
def test_invalid_file_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        edit_ingress(text, PATH, IngressEdit(hosts=("a.example.com",)))


def test_file_behind_link_is_replaced_with_its_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yml", tmp_path / "devopsellence.yml"
    real.write_text("before")
    real.chmod(0o640)
    link.symlink_to(real)
    write(link, "after")
    assert (real.read_text(), real.stat().st_mode & 0o777, link.is_symlink()) == ("after", 0o640, True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["devopsellence.yml", "real.yml"]


HOST = IngressEdit(hosts=("shop.example.com",))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("text", [TWO, SHOP, TWO.rstrip("\n")], ids=["block", "comments", "no final newline"])
def test_edit_keeps_line_ends_final_newline_and_byte_order_mark(text: str, bom: str, end: str, tmp_path: Path) -> None:
    options = IngressEdit(hosts=("shop.example.com",), service="app" if "app:" in text else None)
    path = tmp_path / "devopsellence.yml"
    path.write_bytes((bom + text.replace("\n", end)).encode())
    write(path, edit_ingress(read(path), path, options))
    plain = edit_ingress(text.rstrip("\n") + "\n", path, options)
    expected = plain if text.endswith("\n") else plain.rstrip("\n")
    assert path.read_bytes() == (bom + expected.replace("\n", end)).encode()


def test_edit_of_mixed_line_ends_keeps_each_line_and_adds_lines_like_the_first() -> None:
    mixed = "".join(line + ("\n" if at % 3 else "\r\n") for at, line in enumerate(TWO.splitlines()))
    after = edit_ingress(mixed, PATH, IngressEdit(hosts=("shop.example.com",), service="app"))
    assert after.startswith(mixed)
    assert after[len(mixed) :].count("\n") == after[len(mixed) :].count("\r\n") > 0


def test_unchanged_crlf_file_is_returned_as_it_is() -> None:
    once = edit_ingress(SHOP.replace("\n", "\r\n"), PATH, HOST)
    assert edit_ingress(once, PATH, HOST) == once


@pytest.mark.parametrize("style", ["|", "|+", "|-", ">"])
def test_edit_above_block_scalar_without_final_newline_keeps_its_value(style: str) -> None:
    head, tail = TWO.split("services:\n")
    before = f"{head}ingress:\n  hosts: [a.example.com]\nservices:\n{tail}    env:\n      A: {style}\n        last"
    after = edit_ingress(before, PATH, IngressEdit(hosts=("b.example.com",), service="app"))
    services = [YAML(typ="safe", pure=True).load(each)["services"] for each in (before, after)]
    assert services[0] == services[1]
    assert "b.example.com" in after


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_diff_shows_only_changed_lines_with_their_ends(end: str) -> None:
    before = SHOP.replace("\n", end)
    after = edit_ingress(before, PATH, HOST)
    lines = difference(before, after, "f").split("\n")[2:]
    assert not [line for line in lines if line.startswith("-")]
    assert all(line.endswith("\r") == (end == "\r\n") for line in lines[:-1] if line.startswith("+"))


def test_diff_shows_missing_final_newline() -> None:
    assert difference("a: 1\nb: 2", "a: 1\nb: 3", "f").split("\n") == [
        "--- f",
        "+++ f",
        "@@ -1,2 +1,2 @@",
        " a: 1",
        "-b: 2",
        "\\ No newline at end of file",
        "+b: 3",
        "\\ No newline at end of file",
    ]


def test_file_that_is_not_text_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "devopsellence.yml"
    path.write_bytes(b"project: \xff\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read(path)
