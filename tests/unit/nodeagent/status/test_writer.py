from __future__ import annotations

import pytest

from devopsellence.nodeagent.status.writer import COALESCE_SECONDS, LONGEST_COALESCE_SECONDS, pause_after


@pytest.mark.parametrize(
    ("took", "pause"),
    [(0.0, COALESCE_SECONDS), (0.4, 0.4), (30.0, LONGEST_COALESCE_SECONDS)],
)
def test_pause_grows_with_the_duration_of_a_write(took: float, pause: float) -> None:
    assert pause_after(took) == pause
