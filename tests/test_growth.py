"""scripts.speed.growth on pools that are too small to say anything about growth, and its table on paper by hand."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.command_line import CommandError
from scripts.speed.growth import JOBS, REAL, STAGES, WARM_UP, growth, tables
from scripts.speed.scale import on_paper


def measured(images: int, look: float, recount: float = 1.0) -> dict[str, Any]:
    job = {
        "seconds": {"pull": 20.0, "score": 80.0, "push": 4.0},
        "label_studio_seconds": {"pull": 5.0, "score": 10.0, "push": 4.0},
    }
    return {
        "images": images,
        "train": job | {"new": images},
        "nothing_new": {"seconds": {"pull": 3.0, "score": 0.0, "push": 3.0}, "label_studio_seconds": {}, "new": 0},
        "few_new": {"label_studio_seconds": {"push": recount}},
        "next_seconds": look,
        "page_seconds": 0.5,
        "growth_mb": 40.0,
        "real": {"predictions": 1000, "seconds": 9.0, "bytes": 20_000.0, "file_bytes": 5_000},
    }


def test_a_pool_without_anything_to_score_is_refused():
    with pytest.raises(CommandError, match="sizes above 8"):
        growth([100, 8])


def test_paper_carries_on_what_the_largest_pool_took():
    # next task: 10 microseconds more for each task; a call that pushes: 0.1 ms
    rows = [measured(1000, 0.1, 0.1), measured(10_000, 0.19, 1.0)]
    _, _, small, large = (line.strip("| ").split("|") for line in on_paper(rows, 25, [10**5, 10**6]).splitlines())
    # 10^5 / 25; x 2 ms; x 8 ms and 40 calls of 50 MB and 10 s; x 0.6 ms
    hours = ["1.1", "0.1 (0.0)", "0.3; 0.03", "1.0"]
    assert [cell.strip() for cell in small[1:5]] == hours
    assert [cell.strip() for cell in small[5:9]] == ["100,000", "2.0", "0.5", "0.4"]
    assert [cell.strip() for cell in small[9:]] == ["1.1", "0.5", "yes"]
    hours = ["11.1", "0.6 (0.1)", "13.3; 0.13", "10.0"]  # 400 calls of 100 s; 4
    assert [cell.strip() for cell in large[1:5]] == hours
    assert large[9].strip() == "10.1" and large[11].strip().startswith("no")


def test_one_pool_alone_is_carried_on_in_proportion_and_a_look_does_not_get_quicker():
    assert on_paper([measured(10_000, 0.2)], 25, [10**5]).splitlines()[2].split("|")[10].strip() == "2.0"
    falling = [measured(1000, 0.3), measured(10_000, 0.2)]
    assert on_paper(falling, 25, [10**5]).splitlines()[2].split("|")[10].strip() == "0.2"


@pytest.mark.slow
def test_every_size_has_its_row():
    rows = growth([WARM_UP + 20, WARM_UP])
    assert [row["images"] for row in rows] == [WARM_UP, WARM_UP + 20]
    for row in rows:
        assert row["peak_mb"] > 100 and 0 <= row["growth_mb"] < 100
        assert row["train"]["seconds"].keys() == set(STAGES) and row["train"]["seconds"]["score"] > 0
        assert row["few_new"]["new"] == 1 and row["real"]["predictions"] == min(REAL, row["images"] + 1)
        for job in JOBS:
            assert 0 < row[job]["label_studio_seconds"]["pull"] <= row[job]["seconds"]["pull"]
    assert len(tables(rows).splitlines()) == 2 + 2 * len(JOBS) + 1 + 2 + 2
