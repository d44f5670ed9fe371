"""Names of ssh hosts: the accepted forms, and the arguments of ssh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devopsellence.cli.ssh.host import InvalidHost, SshHost

FORMS = [
    ("bastion", SshHost("bastion"), ["--", "bastion"]),
    ("ops@bastion", SshHost("bastion", "ops"), ["--", "ops@bastion"]),
    ("ops@10.0.0.1:2222", SshHost("10.0.0.1", "ops", 2222), ["-p", "2222", "--", "ops@10.0.0.1"]),
    ("bastion.example.com:22", SshHost("bastion.example.com", "", 22), ["-p", "22", "--", "bastion.example.com"]),
    ("[fd00::1]:2222", SshHost("fd00::1", "", 2222), ["-p", "2222", "--", "fd00::1"]),
    ("ops@[fd00::1]", SshHost("fd00::1", "ops"), ["--", "ops@fd00::1"]),
    ("ops@fd00::1", SshHost("fd00::1", "ops"), ["--", "ops@fd00::1"]),
    ("ssh://ops@bastion:2222", SshHost("bastion", "ops", 2222), ["-p", "2222", "--", "ops@bastion"]),
    ("ann@corp.example@bastion", SshHost("bastion", "ann@corp.example"), ["--", "ann@corp.example@bastion"]),
]


@pytest.mark.parametrize(("text", "host", "arguments"), FORMS)
def test_host_is_parsed_and_written_back(text: str, host: SshHost, arguments: list[str]) -> None:
    assert SshHost.parse(text) == host
    assert SshHost.parse(str(host)) == host
    assert host.arguments == arguments


HOSTILE = [
    *("", "@", "ops@", "@bastion", "-oProxyCommand=touch x", "-", "ops@-x", "-x@bastion", "--"),
    *(
        "a b",
        "a\tb",
        "a\nb",
        "bastion\n",
        "a\0b",
        "a\x1bb",
        "a'b",
        'a"b',
        "a`id`",
        "$(id)",
        "a;b",
        "a|b",
        "a&b",
        "a\\b",
    ),
    *("a/b", "/run/x.sock", "%h", "a%h", "é", "a,b", "a=b", "*", "bastion:", "bastion:0", "bastion:65536", "bastion:x"),
    *("bastion:+22", "bastion:\uff12", "[fd00::1", "fd00::1]", "[bastion]:22", "[fd00::1]x", "[fe80::1%eth0]", "a:b:c"),
    *("ssh://", "ssh://bastion/x", "ssh://-x", "x" * 300),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_that_ssh_or_a_shell_could_mistake_is_refused(text: str) -> None:
    with pytest.raises(InvalidHost):
        SshHost.parse(text)


@given(st.text(max_size=40))
def test_accepted_hosts_are_plain_words(text: str) -> None:
    try:
        arguments = SshHost.parse(text).arguments
    except InvalidHost:
        return
    assert arguments[-2] == "--"
    assert not arguments[-1].startswith("-")
    assert not set(arguments[-1]) & set(" \t\r\n\0'\"`$;|&<>()\\/%*?!~#=,")
    assert arguments[-1].isascii()
    assert arguments[-1].isprintable()
