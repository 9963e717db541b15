"""scripts.speed.growth on pools that are too small to say anything about growth."""

import pytest

from scripts.command_line import CommandError
from scripts.speed.growth import WARM_UP, growth


def test_a_pool_without_anything_to_score_is_refused():
    with pytest.raises(CommandError, match="sizes above 8"):
        growth([100, 8])


@pytest.mark.slow
def test_every_size_has_its_row():
    rows = growth([WARM_UP + 20, WARM_UP])
    assert [row["images"] for row in rows] == [WARM_UP, WARM_UP + 20]
    for row in rows:
        assert row["peak_mb"] > 100 and 0 <= row["growth_mb"] < 100
        assert row["score_seconds"] > 0 and row["milliseconds_an_image"] > 0
