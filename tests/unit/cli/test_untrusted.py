"""Untrusted text as escapes: by field, by line, within JSON."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devopsellence.cli.untrusted import safe, safe_json, safe_lines, safe_styled
from tests.support.hostile import TEXT, unsafe

quick = settings(max_examples=100)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain äöü 日本\ttab", "plain äöü 日本\ttab"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f\x08", "\\x7f\\x08"),
        ("right\N{RIGHT-TO-LEFT OVERRIDE}left", "right\\u202eleft"),
        ("two\u2028lines", "two\\u2028lines"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_safe_shows_control_characters_as_escapes(given: str, shown: str) -> None:
    assert safe(given) == shown
    assert safe(shown) == shown


@quick
@given(st.text() | st.just(TEXT))
def test_output_of_any_text_has_no_control_characters(text: str) -> None:
    assert not unsafe(safe(text).replace("\t", ""))
    assert not unsafe(safe_lines(text).replace("\t", ""))
    assert safe_lines(text).count("\n") == text.count("\n")


@quick
@given(st.dictionaries(st.text(), st.text() | st.lists(st.text())), st.sampled_from([None, 2]))
def test_json_keeps_its_value(value: dict[str, object], indent: int | None) -> None:
    document = safe_json(json.dumps(value, ensure_ascii=False, indent=indent))
    assert json.loads(document) == value
    assert not unsafe(document)


def test_styles_of_the_program_stay() -> None:
    sign = re.compile("^\x1b\\[32mok\x1b\\[0m", re.MULTILINE)
    assert safe_styled("\x1b[32mok\x1b[0m \x1b[2J\n\x1b[32mok\x1b[0m", sign) == (
        "\x1b[32mok\x1b[0m \\x1b[2J\n\x1b[32mok\x1b[0m"
    )
