"""Tokens: their text, and the settings that a process makes of one."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from devopsellence.cli import access_token
from devopsellence.cli.access_token import MARK, TOKEN, TOKEN_FILE, Token
from devopsellence.cli.output import CliError

WHOLE = Token(
    endpoints=("10.0.0.1:2381", "10.0.0.2:2381"),
    authority="authority",
    certificate="certificate",
    key="private key",
    identity="AGE-SECRET-KEY-1",
    environment="acme/shop/production",
    prefix="/other/",
)


def text_of(document: object) -> str:
    return MARK + base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def test_token_is_one_line_and_reads_back() -> None:
    text = WHOLE.text()
    assert text.startswith(MARK)
    assert "\n" not in text
    assert Token.parse(f"  {text}\n") == WHOLE


def test_token_of_a_later_version_is_read() -> None:
    document = {"endpoints": ["a:1"], "authority": "a", "certificate": "c", "key": "k", "news": [1]}
    assert Token.parse(text_of(document)) == Token(("a:1",), "a", "c", "k")


def test_repr_shows_no_private_key() -> None:
    assert "private" not in repr(WHOLE)
    assert "AGE-SECRET-KEY" not in repr(WHOLE)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hunter2", f"it does not begin with {MARK}"),
        (WHOLE.text()[:-20], "it is cut or damaged"),
        (f"{WHOLE.text()[:60]}\n{WHOLE.text()[60:]}", "it is cut or damaged"),
        (f"{MARK}%%%", "it is cut or damaged"),
        (text_of([]), "a part of it is missing"),
        (text_of({"endpoints": ["a:1"], "authority": "a", "certificate": "c"}), "a part of it is missing"),
        (text_of({"endpoints": "a:1", "authority": "a", "certificate": "c", "key": "k"}), "a part of it is missing"),
        (text_of({"endpoints": [1], "authority": "a", "certificate": "c", "key": "k"}), "a part of it is missing"),
    ],
)
def test_malformed_token_is_refused_without_showing_it(text: str, problem: str) -> None:
    with pytest.raises(CliError, match=problem) as caught:
        access_token.take({}, {TOKEN: text})
    assert (caught.value.code, caught.value.exit_code) == ("token_invalid", 2)
    assert caught.value.message == f"{TOKEN} holds no usable token: {problem}"
    assert caught.value.__cause__ is None


def test_process_without_a_token_has_none() -> None:
    assert access_token.take({}, {TOKEN_FILE: "", "DEVOPSELLENCE_ETCD_CERT": "tls.crt"}) is None


def test_settings_have_files_in_memory_and_children_no_token() -> None:
    environ = {TOKEN: WHOLE.text()}
    settings = access_token.take({}, environ)
    assert settings is not None
    assert environ == {}
    assert (settings.endpoints, settings.prefix, settings.environment) == (
        WHOLE.endpoints,
        "/other/",
        "acme/shop/production",
    )
    paths = (settings.ca_cert, settings.cert, settings.key, settings.identity)
    assert [path and path.read_text() for path in paths] == [
        "authority",
        "certificate",
        "private key",
        "AGE-SECRET-KEY-1",
    ]
    assert settings.key is not None
    assert str(settings.key.readlink()).startswith("/memfd:")
    assert stat.S_IMODE(settings.key.stat().st_mode) == 0o600
    assert not os.get_inheritable(int(settings.key.name))


def test_token_without_identity_has_no_path_of_one() -> None:
    settings = access_token.take({}, {TOKEN: Token(("a:1",), "a", "c", "k").text()})
    assert settings is not None
    assert settings.identity is None


def test_file_of_the_flag_comes_before_that_of_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(WHOLE.text() + "\n")
    settings = access_token.take({TOKEN_FILE: str(path)}, {TOKEN_FILE: "/nonexistent"})
    assert settings is not None
    assert settings.endpoints == WHOLE.endpoints


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        (
            {},
            {TOKEN: WHOLE.text(), TOKEN_FILE: "x"},
            "DEVOPSELLENCE_TOKEN and DEVOPSELLENCE_TOKEN_FILE (--token-file) exclude each other",
        ),
        (
            {},
            {TOKEN: WHOLE.text(), "DEVOPSELLENCE_ETCD_CERT": "x"},
            "DEVOPSELLENCE_ETCD_CERT cannot be set beside a token, which has its own; unset one of them",
        ),
        (
            {"DEVOPSELLENCE_PREFIX": "/x/"},
            {TOKEN: WHOLE.text(), "DEVOPSELLENCE_IDENTITY": "x"},
            "DEVOPSELLENCE_PREFIX, DEVOPSELLENCE_IDENTITY cannot be set beside a token, which has its own; "
            "unset one of them",
        ),
        ({}, {TOKEN: " "}, "DEVOPSELLENCE_TOKEN is empty: the job has no token, such as for a pull request of a fork"),
        ({TOKEN_FILE: "/nonexistent"}, {}, "cannot read the token /nonexistent: No such file or directory"),
    ],
)
def test_contradiction_is_refused(flags: dict[str, str], environ: dict[str, str], message: str) -> None:
    with pytest.raises(CliError) as caught:
        access_token.take(flags, environ)
    assert (caught.value.message, caught.value.exit_code) == (message, 2)
