"""Join tokens: their text, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import zlib
from typing import Any

import pytest

from devopsellence.certificates import subjects, token_text
from devopsellence.certificates.authority import CertificateAuthority
from devopsellence.certificates.join_token import MARK, JoinToken, UnusableToken

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
ROOT = CertificateAuthority.create("root", NOW)
ISSUING = ROOT.create_issuing("issuing", NOW)
ISSUED = ISSUING.issue(subjects.join_token("prod-1", "u1"), NOW)
TOKEN = JoinToken(
    endpoints=("10.0.0.1:2381", "10.0.0.2:2381", "10.0.0.3:2381"),
    authority=ROOT.trusted.decode(),
    certificate=ISSUED.certificate.decode(),
    key=ISSUED.key.decode(),
    node="prod-1",
    uid="6c8f3c6f0d8a4f0f9a5a3a4f5c1d2e3f",
    arguments=("--node", "prod-1", "--api-listen", "[::]:7443"),
    prefix="/other/",
)


def text_of(**changed: Any) -> str:
    return token_text.encode(MARK, {**dataclasses.asdict(TOKEN), **changed}, compress=True)


def test_token_is_one_line_that_a_terminal_takes_and_reads_back() -> None:
    text = TOKEN.text()
    assert len(text) < 4095
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert JoinToken.parse(f"  {text}\n") == TOKEN
    assert TOKEN.expires == NOW + datetime.timedelta(hours=1)


def test_token_of_a_later_version_is_read_and_repr_shows_no_key() -> None:
    assert JoinToken.parse(text_of(news=[1])) == TOKEN
    assert "PRIVATE KEY" not in repr(TOKEN)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", f"it does not begin with {MARK}"),
        ("devopsellence-token-1-x", f"it does not begin with {MARK}"),
        (TOKEN.text()[:-1], "it is cut or damaged"),
        (TOKEN.text()[:-400], "it is cut or damaged"),
        (TOKEN.text() + "AAAA", "it is cut or damaged"),
        (f"{TOKEN.text()[:60]}\n{TOKEN.text()[60:]}", "it is cut or damaged"),
        (f"{MARK}%%%", "it is cut or damaged"),
        (MARK, "it is cut or damaged"),
        (MARK + base64.urlsafe_b64encode(b'{"node": "prod-1"}').decode(), "it is cut or damaged"),
        (MARK + base64.urlsafe_b64encode(zlib.compress(b" " * (1 << 20))).decode(), "it is cut or damaged"),
        (token_text.encode(MARK, {}, compress=True), "a part of it is missing"),
        (text_of(key=""), "a part of it is missing"),
        (text_of(key=7), "a part of it is missing"),
        (text_of(endpoints=[]), "a part of it is missing"),
        (text_of(endpoints="10.0.0.1:2381"), "a part of it is missing"),
        (text_of(arguments=["--debug"] * 65), "a part of it is missing"),
        (text_of(arguments=["a b"]), "a part of it is malformed"),
        (text_of(arguments=["a\nB=c"]), "a part of it is malformed"),
        (text_of(arguments=[1]), "a part of it is malformed"),
        (text_of(node="../n1"), "a name in it is malformed"),
        (text_of(uid="u/1"), "a name in it is malformed"),
        (text_of(certificate="none"), "there is no certificate in PEM format"),
    ],
)
def test_unusable_text_is_refused_without_showing_it(text: str, problem: str) -> None:
    with pytest.raises(UnusableToken) as caught:
        JoinToken.parse(text)
    assert str(caught.value) == problem
