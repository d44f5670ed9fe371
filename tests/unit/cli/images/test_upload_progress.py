"""Progress of image uploads as text and JSON."""

from __future__ import annotations

import json

import pytest

from devopsellence.cli.images.missing import MissingImages
from devopsellence.cli.images.upload_progress import UploadProgress, size_text
from devopsellence.cli.output import Output

LACK = MissingImages("n1", ("i",), {"a": 100, "b": 0}, there=3, free_mib=9)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (5_000_000_000_000, "5000.0 GB"),
    ],
)
def test_size_text_uses_largest_unit(count: int, text: str) -> None:
    assert size_text(count) == text


def test_upload_prints_start_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    with UploadProgress(Output()) as sending:
        bar = sending.bar("n1")
        bar.begin(2_000_100, LACK)
        bar.skip(100)
        bar.advance(1_000_000)
        # The connection broke; the second attempt is not told.
        bar.begin(1_000_000, LACK)
        bar.advance(1_000_000)
        bar.end()
    first, last = capsys.readouterr().out.splitlines()
    assert first == "n1: uploading 2 layers, 2.0 MB (3 already there)"
    assert last.startswith("n1: images uploaded: 2.0 MB in ")


def test_upload_progress_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with UploadProgress(Output(json=True)) as sending:
        bar = sending.bar("n1")
        bar.begin(2_000_100, LACK)
        bar.advance(50)
        bar.end()
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["event"], first["stage"], first["node"]) == ("progress", "sending", "n1")
    assert (first["bytes"], first["layers"], first["layers_there"]) == (2_000_100, 2, 3)
    assert (last["stage"], last["bytes"]) == ("sent", 50)
