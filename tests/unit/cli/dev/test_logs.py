"""Log files of the local cluster."""

from __future__ import annotations

from devopsellence.cli.dev.logs import last_lines


def test_last_lines_skip_blank_lines() -> None:
    assert last_lines(b"one\n\ntwo\nthr\xffee\n", 2) == ["two", "thr\N{REPLACEMENT CHARACTER}ee"]
