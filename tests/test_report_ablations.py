"""The report's ablations: Fig. 4 of arXiv 2012.04829 and our own variants, told by settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from scripts.grid.spec import read_grid
from scripts.reporting.ablations import ablations
from tests.grid_cells import context_of, row_of, said, table_of, write_cell, write_grid

EXPERIMENTS = Path(__file__).parents[1] / "scripts" / "experiments"


def test_ablations_are_told_by_settings_and_not_by_names(tmp_path: Path) -> None:
    write_grid(tmp_path)
    for seed in (0, 1):
        write_cell(tmp_path, "heavy", seed, [0.2, 0.5, 0.6], ssl=True, beta=0.05)
        write_cell(tmp_path, "beta 0.05", seed, [0.2, 0.5, 0.6], ssl=True, score_parts="c")
        write_cell(tmp_path, "both", seed, [0.2, 0.5, 0.6], ssl=True, score_parts="c", beta=0.05)
        write_cell(tmp_path, "from before", seed, [0.2, 0.5, 0.7], ssl=True, warm_start=True)
    context = context_of(tmp_path)
    section = ablations(context)
    assert (context.out / "fig4_ablations.png").exists()
    first, second, own = (table_of(section, place) for place in range(3))
    assert "2: β" in first.caption and [row[0] for row in first.rows] == ["TSP + SSL", "heavy"]
    assert "scores" in second.caption and [row[0] for row in second.rows] == ["beta 0.05", "TSP + SSL"][::-1]
    assert [row[0] for row in own.rows] == ["TSP + SSL", "both", "from before"]
    assert row_of(own, "from before")[1] == "warm_start True"
    assert "ablation 1" in said(section) and "ablation 2" not in said(section)


@pytest.mark.parametrize("file", ["synthetic", "paper-ct", "paper-oct", "dsb2018"])
def test_the_ready_files_fill_the_three_panels_of_fig_4(tmp_path: Path, drawn: dict[str, Canvas], file: str) -> None:
    heights = {}
    for cell in read_grid(EXPERIMENTS / f"{file}.toml").cells:
        if cell.full_data:
            continue
        own = cell.settings.to_dict()
        seed = own.pop("seed")
        heights.setdefault(cell.name, 0.3 + len(heights) / 100)
        # 0.01 above and below in seeds 0 and 2: the mean stays
        values = [0.1, heights[cell.name] + 0.01 * (seed - 1)]
        write_cell(tmp_path, cell.name, seed, values, **own)
    section = ablations(context_of(tmp_path))
    panels = drawn["fig4_ablations.png"].axes
    assert [panel.get_title() for panel in panels] == ["1: the ranking", "2: β", "3: the scores of Eq. 2"]
    names = {
        "1: the ranking": ["random + SSL", "entropy + SSL", "tsp + SSL"],
        "2: β": ["tsp + SSL", "beta 0.05", "beta 0.09"],
        "3: the scores of Eq. 2": ["tsp + SSL", "without box score", "without mask score", "class score only"],
    }
    for panel, (title, expected) in zip(panels, names.items(), strict=True):
        ends = [line.get_ydata()[-1] for line in panel.get_lines() if len(line.get_ydata()) == 2]
        assert np.allclose(ends, [heights[name] for name in expected]), title
    words = {text.get_text() for panel in panels for text in panel.texts}
    assert {"class entropy + SSL", "β = 0.05", "β = 0.09", "c, b and m", "c and m", "c and b", "c alone"} <= words
    assert "fewer than two" not in said(section)
