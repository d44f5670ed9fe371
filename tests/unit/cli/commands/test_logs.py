"""Options of ``logs`` that exclude one another, refused before anything is read."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from devopsellence.cli.commands.app.logs import logs
from devopsellence.cli.output import Output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--follow", "--previous"], "--follow goes with what runs now"),
        (["--follow", "--release", "3"], "--follow goes with what runs now"),
        (["-f", "--task", "migrate"], "--follow goes with what runs now"),
        (["web", "--task", "migrate"], "give either services or --task"),
        (["--previous", "--task", "migrate"], "shows the newest run of a task"),
        (["--release", "0"], "0 is not in the range"),
    ],
)
def test_options_that_exclude_one_another_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(logs, arguments, obj=Output())
    assert result.exit_code == 2
    assert message in result.output
