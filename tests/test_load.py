"""scripts.load on a real server with few of everything: that it runs, and that nothing is lost."""

from __future__ import annotations

import pytest

from scripts.load import SMOKE, load


@pytest.mark.slow
def test_few_of_everything_are_held() -> None:
    rows = {row.what: row for row in load(SMOKE)}
    assert len(rows) == 12 and all(row.found for row in rows.values())
    # How quick depends on the machine; whether everything was answered and known does not.
    for what in ("annotations known after them, of 5 made meanwhile", "processes of the web service"):
        assert rows[what].held, rows[what]
    assert "12 answered" in rows["/predict of 12 new images at once while a training runs"].found
